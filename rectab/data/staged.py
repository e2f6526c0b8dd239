"""Checked rows of raw files as scratch parquet files, and what all kinds of rows do to become one.

What is read later are single columns of such a file, so memory holds a column or two, not the data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rectab.data.checks import BAD, CELL
from rectab.data.derived import needed_derived
from rectab.data.errors import DataError, RecipeError
from rectab.data.ids import whole_numbers
from rectab.data.missing import with_missing
from rectab.data.reading import FILE, ROW, RawFile
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.roles import RawColumns
from rectab.data.sources import Sources
from rectab.data.sql import alike_in_every_file, expression, first_line
from rectab.data.times import Times

__all__ = [
    "GROUP",
    "ITEM",
    "LABEL",
    "LABEL_ID",
    "PROBABILITY",
    "SPLIT",
    "TIME",
    "StagedTable",
    "columns_of",
    "condition_of",
    "require",
    "sink",
    "sql_column",
    "with_derived",
]

LABEL, LABEL_ID, TIME, GROUP, ITEM = "__label", "__label_id", "__time", "__group", "__item"
SPLIT, PROBABILITY = "__split", "__probability"


@dataclass
class StagedTable:
    """A scratch parquet file of checked rows.

    Attributes:
        path: the file.
        rows: how many.
        raw: the files they came from, for messages.
        numeric: the staged ids that hold numbers in one of these files.
    """

    path: Path
    rows: int
    raw: list[RawFile]
    numeric: frozenset[str] = frozenset()

    def column(self, name: str) -> pl.Series:
        """[rows]: one staged column, read from the file."""
        column = pl.scan_parquet(self.path, glob=False).select(name).collect().to_series()
        return whole_numbers(column) if name in self.numeric else column

    def times(self, name: str, column: str) -> Times:
        """[rows]: the times staged as ``name`` from the raw column ``column``. DataError if they are of two kinds."""
        return Times.read(self, name, column)

    def places(self, rows: np.ndarray) -> pl.DataFrame:
        """(file, row) [m] of staged rows (int64 [m]): the line in a text file, else the position, from 1."""
        at = pl.scan_parquet(self.path, glob=False).select(FILE, ROW).collect()[rows]
        names = pl.Series([str(raw.path) for raw in self.raw], dtype=pl.String)
        return pl.DataFrame({"file": names.gather(at[FILE]), "row": at[ROW].cast(pl.Int64)})

    def place(self, row: int) -> str:
        """Where staged row ``row`` stands in the raw files."""
        at = pl.scan_parquet(self.path, glob=False).select(FILE, ROW).slice(row, 1).collect().row(0)
        return self.raw[at[0]].place(at[1])


def columns_of(raw: RawFile, frame: pl.LazyFrame, sources: Sources, file: int) -> RawColumns:
    staging = RawColumns(raw, frame)
    staging.staged |= {FILE: pl.lit(file, pl.UInt32), ROW: pl.col(ROW)}
    for key in {table.on for table in sources.recipe.tables} & set(staging.schema):
        staging.check_ids(key)
    return staging


def with_derived(sources: Sources, raw: RawFile, needed: Iterable[str] | None = None) -> tuple[pl.LazyFrame, list[str]]:
    """The rows of a file with the columns of side tables and the derived ones, and the names of all columns.

    Args:
        sources: the raw folder.
        raw: the file.
        needed: columns that are needed; derived ones that they do not need are left out. None needs all.
    """
    frame, columns = sources.join(raw.frame, raw.columns)
    derived = sources.recipe.derived
    for column in derived if needed is None else needed_derived(derived, needed):
        value = sql_column(column.sql, frame, columns, raw, f"derived column {column.name!r}")
        frame = with_missing(frame.with_columns(value.alias(column.name)), [column.name])
        columns.append(column.name)
    return frame, columns


def sql_column(text: str, frame: pl.LazyFrame, columns: list[str], raw: RawFile, what: str) -> pl.Expr:
    sql = expression(text, what)
    require(raw, columns, sql.meta.root_names(), what)
    try:
        return alike_in_every_file(sql, frame)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{raw.path}, {what}: {text!r} cannot be worked out: {first_line(error)}") from None


def condition_of(history: HistoryRecipe, frame: pl.LazyFrame, columns: list[str], raw: RawFile) -> pl.Expr:
    """Does a row become an event?"""
    assert history.where is not None
    what = f"behaviour {history.behaviour!r}"
    condition = sql_column(history.where, frame, columns, raw, what)
    if frame.select(condition.alias("condition")).collect_schema()["condition"] != pl.Boolean:
        raise RecipeError(f"{raw.path}, {what}: where = {history.where!r} is no condition; compare with something")
    return condition.fill_null(False)


def require(raw: RawFile, columns: list[str], needed: Iterable[str], why: str) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        raw.require(missing, why)


def sink(sources: Sources, parts: list[RawColumns], name: str) -> StagedTable:
    path = sources.scratch / f"{name}.parquet"
    raws = [part.raw for part in parts]
    try:
        frame = pl.concat([part.finish() for part in parts], how="vertical_relaxed")
        frame.sink_parquet(path, compression="lz4", statistics=False)
        bad = pl.scan_parquet(path, glob=False).filter(pl.col(BAD) > 0).select(FILE, ROW, BAD, CELL).collect()
    except pl.exceptions.PolarsError as error:
        files = ", ".join(str(raw.path) for raw in raws)
        raise DataError(f"{files}: polars cannot read it: {first_line(error)}") from None
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    sources.bad.leave_out(bad, rows, raws, [part.checks for part in parts])
    if len(bad):
        kept = sources.scratch / f"{name}-kept.parquet"
        pl.scan_parquet(path, glob=False).filter(pl.col(BAD) == 0).sink_parquet(
            kept, compression="lz4", statistics=False
        )
        path.unlink()
        path = kept
    return StagedTable(path, rows - len(bad), raws, frozenset().union(*(part.numeric for part in parts)))

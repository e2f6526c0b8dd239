"""The raw folder of one ``prepare``: opens its files, verifies checksums, joins side tables."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rectab.data.cells import INTEGERS
from rectab.data.errors import DataError, RecipeError
from rectab.data.ids import canonical_ids, identifier
from rectab.data.inputs import InputFile, find_inputs
from rectab.data.raw_bytes import checksum
from rectab.data.reading import FILE, ROW, RawFile, open_raw
from rectab.data.recipe import Recipe
from rectab.data.recipe_files import Location, SideTable
from rectab.data.roles import BAD, CELL, RawColumns

__all__ = ["Sources"]

_KEY = "__key"


@dataclass
class Sources:
    """The raw folder: opens files, verifies checksums, joins side tables, remembers what was dropped."""

    recipe: Recipe
    folder: Path
    scratch: Path
    skip_bad: bool
    checksums: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dropped: int = 0
    _opened: dict[tuple[Path, str], RawFile] = field(default_factory=dict)
    _checked: dict[Path, str] = field(default_factory=dict)
    _tables: dict[str, pl.LazyFrame] = field(default_factory=dict)

    def open(self, location: Location) -> list[RawFile]:
        """Open the files of a location, and note their sizes and checksums.

        Raises:
            DataError: a file is missing, cannot be read, has another checksum, or not the columns of the others.
        """
        inputs = find_inputs(self.folder, location)
        raws = [self._open(file, location) for file in inputs]
        for raw in raws[1:]:
            _check_same_columns(raws[0], raw)
        return raws

    def _open(self, file: InputFile, location: Location) -> RawFile:
        form = location.format or self.recipe.format
        known = (file.path, form.model_dump_json())
        if known not in self._opened:
            with ThreadPoolExecutor(1) as pool:  # the checksum takes a core while the lines are checked on another
                digest = pool.submit(checksum, file.path) if file.path not in self._checked else None
                raw = self._opened[known] = open_raw(file.path, form, self.scratch, self.skip_bad)
            self.problems += raw.problems
            self.dropped += raw.dropped
            if digest is not None:
                self._note(file, digest.result())
        actual = self._checked[file.path]
        if location.sha256 not in (None, actual):
            raise DataError(
                f"{file.path}: its SHA-256 is {actual}, the recipe expects {location.sha256}; it is not the "
                "published file (or was cut short): get it again, or take sha256 out of the recipe to use it anyway"
            )
        return self._opened[known].with_constants(file.partition)

    def _note(self, file: InputFile, digest: str) -> None:
        self._checked[file.path] = digest
        self.checksums.append({"file": file.name, "bytes": file.path.stat().st_size, "sha256": digest})

    def join(self, frame: pl.LazyFrame, have: Iterable[str]) -> tuple[pl.LazyFrame, list[str]]:
        """Join the side tables whose key the frame has. A column the frame already has is not replaced."""
        columns = list(have)
        for table in self.recipe.tables:
            new = [column for column in table.columns if column not in columns]
            if table.on in columns and new:
                frame = _joined(frame, self._table(table), table.on, new)
                columns += new
        return frame, columns

    def _table(self, table: SideTable) -> pl.LazyFrame:
        """The table's columns under its key ``_KEY``, in canonical form: unique, and never missing."""
        name = table.model_dump_json()
        if name not in self._tables:
            raws = self.open(table)
            frame = _stacked(raws, [self._keyed(raw, number, table) for number, raw in enumerate(raws)])
            frame = frame.with_columns(canonical_ids(frame[_KEY])).drop_nulls(_KEY)
            repeated = frame.filter(pl.col(_KEY).is_duplicated())
            if len(repeated):
                row, key = repeated.row(0, named=True), table.key or table.on
                place = raws[row[FILE]].place(row[ROW])
                raise DataError(f"{place}, column {key!r}: value {row[_KEY]!r} appears more than once")
            self._tables[name] = frame.drop(ROW, FILE).lazy()
        return self._tables[name]

    def _keyed(self, raw: RawFile, number: int, table: SideTable) -> pl.DataFrame:
        """The columns of one of the table's files, under the key as it was read; refuses keys that are no ids."""
        key = table.key or table.on
        raw.require([key, *table.columns], "of a side table")
        keyed = RawColumns(raw, raw.frame)
        keyed.id(key, _KEY)
        keyed.staged |= {FILE: pl.lit(number), ROW: pl.col(ROW), **{column: pl.col(column) for column in table.columns}}
        frame = keyed.finish().collect()
        if (wrong := frame.filter(pl.col(BAD) > 0)).height:
            row = wrong.row(0, named=True)
            raise DataError(f"{raw.place(row[ROW])}, {keyed.checks.message(row[BAD], row[CELL])}")
        return frame.drop(BAD, CELL)


def _stacked(raws: list[RawFile], frames: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of a side table's files, which hold numbers (of any types), text or whatever else alike."""
    for raw, frame in zip(raws[1:], frames[1:], strict=True):
        for column, dtype in frame.schema.items():
            if _kind(dtype) != _kind(other := frames[0].schema[column]) and pl.Null not in (dtype, other):
                raise DataError(
                    f"{raw.path}: column {column!r} holds {dtype} where {raws[0].path} has {other}; the files of a "
                    "side table hold the same types"
                )
    return pl.concat(frames, how="vertical_relaxed")


def _kind(dtype: pl.DataType) -> object:
    return "number" if dtype.is_numeric() else dtype


def _check_same_columns(first: RawFile, other: RawFile) -> None:
    for ours, theirs in ((first, other), (other, first)):
        if odd := [column for column in ours.columns if column not in theirs.columns]:
            raise DataError(
                f"{other.path}: its columns are not those of {first.path}: {odd[0]!r} is only in {ours.path.name}; the "
                "files of a folder or a pattern have the same columns"
            )


def _joined(rows: pl.LazyFrame, side: pl.LazyFrame, on: str, columns: list[str]) -> pl.LazyFrame:
    """``rows`` with the ``columns`` that ``side`` has for the same id as theirs in ``on``."""
    ours, theirs = rows.collect_schema()[on], side.collect_schema()[_KEY]
    side = side.select(_KEY, *columns)
    try:
        key = identifier(pl.col(on), ours).alias(_KEY)
    except TypeError as error:
        raise RecipeError(f"column {on!r}, the key of a side table, {error}") from None
    if (ours in INTEGERS) != (theirs == pl.Int64):
        key, side = key.cast(pl.String), side.with_columns(pl.col(_KEY).cast(pl.String))
    return rows.with_columns(key).join(side, on=_KEY, how="left", maintain_order="left").drop(_KEY)

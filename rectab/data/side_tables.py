"""Side tables: read once, joined to rows and events by the ids of a key, never multiplying a row."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from rectab.data.cells import INTEGERS, is_number
from rectab.data.checks import BAD, CELL
from rectab.data.errors import DataError, RecipeError
from rectab.data.ids import canonical_ids, identifier, plain_digits
from rectab.data.reading import FILE, ROW, RawFile
from rectab.data.recipe_files import SideTable
from rectab.data.roles import RawColumns

__all__ = ["SideRows"]

_KEY = "__key"


@dataclass
class SideRows:
    """The rows of a side table that have a key.

    Attributes:
        raws: its files.
        key: the key column.
        frame: ``FILE``, ``ROW``, the canonical key, and the columns taken.
        has_numbers: whether the key column holds numbers rather than text.
    """

    raws: list[RawFile]
    key: str
    frame: pl.DataFrame
    has_numbers: bool

    @classmethod
    def read(cls, raws: list[RawFile], table: SideTable) -> SideRows:
        """Read the key and the columns of a side table from its files.

        Raises:
            DataError: one of them is missing, a key is no id, or the files hold different types.
        """
        parts = [_staged(raw, number, table) for number, raw in enumerate(raws)]
        frame = _stacked(raws, [_checked(part) for part in parts])
        frame = frame.with_columns(canonical_ids(frame[_KEY])).drop_nulls(_KEY)
        return cls(raws, table.key or table.on, frame, any(_KEY in part.numeric for part in parts))

    def join(self, rows: pl.LazyFrame, on: str, columns: list[str]) -> pl.LazyFrame:
        """``rows`` with the ``columns`` of this table that has the same id as theirs in ``on``; null where none has.

        Where one of the two keys holds numbers, texts in the other are taken as numbers: 007 is 7.

        Raises:
            DataError: two rows of this table have one key.
        """
        dtype, own = rows.collect_schema()[on], self.frame
        try:
            key = identifier(pl.col(on), dtype)
        except TypeError as error:
            raise RecipeError(f"column {on!r}, the key of a side table, {error}") from None
        if dtype not in INTEGERS or own[_KEY].dtype != pl.Int64:
            key, texts = key.cast(pl.String), own[_KEY].cast(pl.String)
            if self.has_numbers or is_number(dtype):
                key, texts = plain_digits(key), texts.to_frame().select(plain_digits(pl.col(_KEY))).to_series()
            own = own.with_columns(texts)
        self._must_be_unique(own)
        side = own.lazy().select(_KEY, *columns)
        return rows.with_columns(key.alias(_KEY)).join(side, on=_KEY, how="left", maintain_order="left").drop(_KEY)

    def _must_be_unique(self, keyed: pl.DataFrame) -> None:
        repeated = keyed.filter(pl.col(_KEY).is_duplicated())
        if len(repeated):
            row = repeated.row(0, named=True)
            place = f"{self.raws[row[FILE]].place(row[ROW])}, column {self.key!r}"
            raise DataError(f"{place}: value {str(row[_KEY])!r} appears more than once; leave one row of each key")


def _staged(raw: RawFile, number: int, table: SideTable) -> RawColumns:
    key = table.key or table.on
    raw.require([key, *table.columns], "of a side table")
    staging = RawColumns(raw, raw.frame)
    staging.id(key, _KEY)
    staging.staged |= {FILE: pl.lit(number), ROW: pl.col(ROW), **{column: pl.col(column) for column in table.columns}}
    return staging


def _checked(staging: RawColumns) -> pl.DataFrame:
    frame = staging.finish().collect()
    if (wrong := frame.filter(pl.col(BAD) > 0)).height:
        row = wrong.row(0, named=True)
        raise DataError(f"{staging.raw.place(row[ROW])}, {staging.checks.message(row[BAD], row[CELL])}")
    return frame.drop(BAD, CELL)


def _stacked(raws: list[RawFile], frames: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of a side table's files, which hold numbers (of any types), text or whatever else alike."""
    for raw, frame in zip(raws[1:], frames[1:], strict=True):
        for column, dtype in frame.drop(_KEY).schema.items():  # keys are ids already
            if _kind(dtype) != _kind(other := frames[0].schema[column]) and pl.Null not in (dtype, other):
                raise DataError(
                    f"{raw.path}: column {column!r} holds {dtype} where {raws[0].path} has {other}; the files of a "
                    "side table hold the same types"
                )
    return pl.concat(frames, how="vertical_relaxed")


def _kind(dtype: pl.DataType) -> object:
    return "number" if dtype.is_numeric() else dtype

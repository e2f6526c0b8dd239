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
from rectab.data.inputs import find_file
from rectab.data.raw_bytes import checksum
from rectab.data.reading import ROW, RawFile, open_raw
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import Format, SideTable
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
    _tables: dict[tuple[str, str, tuple[str, ...]], pl.LazyFrame] = field(default_factory=dict)

    def open(self, name: str, form: Format | None, sha256: str | None) -> RawFile:
        """Open a raw file, or the same name with .gz or .zst, and note its size and checksum.

        Args:
            name: relative to the raw folder.
            form: how it is written; the recipe's format if None.
            sha256: of the published file, hex; None accepts any.

        Raises:
            DataError: the file is missing, cannot be read, or has another checksum.
        """
        path = find_file(self.folder / name)
        with ThreadPoolExecutor(1) as pool:  # the checksum takes a core while the lines are checked on another
            is_new = all(known["file"] != name for known in self.checksums)
            digest = pool.submit(checksum, path) if is_new else None
            raw = open_raw(path, form or self.recipe.format, self.scratch, self.skip_bad)
        self.problems += raw.problems
        self.dropped += raw.dropped
        if digest is not None:
            actual = digest.result()
            if sha256 is not None and actual != sha256:
                raise DataError(
                    f"{path}: its SHA-256 is {actual}, the recipe expects {sha256}; it is not the published file "
                    "(or was cut short): get it again, or take sha256 out of the recipe to use it anyway"
                )
            self.checksums.append({"file": name, "bytes": path.stat().st_size, "sha256": actual})
        return raw

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
        name = (table.path, table.key or table.on, table.columns)
        if name not in self._tables:
            raw = self.open(table.path, table.format, table.sha256)
            key = table.key or table.on
            raw.require([key, *table.columns], "of a side table")
            keyed = RawColumns(raw, raw.frame)
            keyed.id(key, _KEY)
            keyed.staged |= {ROW: pl.col(ROW), **{column: pl.col(column) for column in table.columns}}
            frame = keyed.finish().collect()
            if (wrong := frame.filter(pl.col(BAD) > 0)).height:
                row = wrong.row(0, named=True)
                raise DataError(f"{raw.place(row[ROW])}, {keyed.checks.message(row[BAD], row[CELL])}")
            frame = frame.with_columns(canonical_ids(frame[_KEY])).drop_nulls(_KEY)
            repeated = frame.filter(pl.col(_KEY).is_duplicated())
            if len(repeated):
                row = repeated.row(0, named=True)
                raise DataError(f"{raw.place(row[ROW])}, column {key!r}: value {row[_KEY]!r} appears more than once")
            self._tables[name] = frame.drop(ROW, BAD, CELL).lazy()
        return self._tables[name]


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

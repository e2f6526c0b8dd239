"""The raw folder of one ``prepare``: opens its files, verifies checksums, joins side tables."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rectab.data.errors import DataError
from rectab.data.inputs import find_file
from rectab.data.raw_bytes import checksum
from rectab.data.reading import INTEGERS, ROW, RawFile, open_raw
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import Format, SideTable

__all__ = ["Sources"]


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
    _tables: dict[str, tuple[SideTable, pl.LazyFrame]] = field(default_factory=dict)

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
                side = self._table(table)
                frame, side = _same_key_type(frame, side, table.on)
                frame = frame.join(side.select(table.on, *new), on=table.on, how="left", maintain_order="left")
                columns += new
        return frame, columns

    def _table(self, table: SideTable) -> pl.LazyFrame:
        if table.path not in self._tables:
            raw = self.open(table.path, table.format, table.sha256)
            key = table.key or table.on
            raw.require([key, *table.columns], "of a side table")
            frame = raw.frame.select(ROW, pl.col(key).alias(table.on), *table.columns).collect()
            repeated = frame.filter(pl.col(table.on).is_duplicated())
            if len(repeated):
                row = repeated.row(0, named=True)
                raise DataError(
                    f"{raw.place(row[ROW])}, column {key!r}: value {row[table.on]!r} appears more than once"
                )
            self._tables[table.path] = (table, frame.drop(ROW).lazy())
        return self._tables[table.path][1]


def _same_key_type(rows: pl.LazyFrame, side: pl.LazyFrame, key: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Integers where the rows have integers, text otherwise."""
    ours, theirs = rows.collect_schema()[key], side.collect_schema()[key]
    if ours == theirs:
        return rows, side
    common = pl.Int64 if ours in INTEGERS else pl.String
    return rows.with_columns(pl.col(key).cast(common)), side.with_columns(pl.col(key).cast(common, strict=False))

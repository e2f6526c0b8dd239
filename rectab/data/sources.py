"""The raw folder of one ``prepare``: opens its files, verifies checksums, joins side tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rectab.data.checks import BadRows
from rectab.data.errors import DataError
from rectab.data.inputs import InputFile, find_inputs
from rectab.data.raw_bytes import checksum
from rectab.data.reading import RawFile, open_frame, open_raw
from rectab.data.recipe import Recipe
from rectab.data.recipe_files import Location, SideTable
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.side_tables import SideRows

__all__ = ["Sources"]


@dataclass
class Sources:
    """The raw folder: opens files, verifies checksums, joins side tables, remembers what was dropped.

    Attributes:
        recipe: with a generator's options filled in.
        folder: of the raw files.
        scratch: folder for what is made on the way.
        bad: what is done about bad rows.
        frames: by ``Location.path``, rows in memory that are read in place of a file.
        log: files whose rows are the events of histories with ``source = "log"``; None: the rows at hand are.
        known: by name below ``folder``, SHA-256 of files as they were when the data set was prepared; another file is
            an error. Empty where any will do.
        checksums: of the files read, in the order they were opened.
    """

    recipe: Recipe
    folder: Path
    scratch: Path
    bad: BadRows
    frames: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    log: Sequence[Location] | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    checksums: list[dict[str, Any]] = field(default_factory=list)
    _opened: dict[tuple[Path, str], RawFile] = field(default_factory=dict)
    _checked: dict[Path, str] = field(default_factory=dict)
    _tables: dict[str, SideRows] = field(default_factory=dict)

    def open(self, location: Location) -> list[RawFile]:
        """Open the files of a location, and note their sizes and checksums.

        Raises:
            DataError: a file is missing, cannot be read, has another checksum, or not the columns of the others.
        """
        if location.path is not None and location.path in self.frames:
            form = location.format or self.recipe.format
            return [open_frame(location.path, self.frames[location.path], form)]
        raws = [self._open(file, location) for file in self.find(location)]
        for raw in raws[1:]:
            _check_same_columns(raws[0], raw)
        return raws

    def find(self, location: Location) -> list[InputFile]:
        """The files of a location; none for rows in memory. Raises DataError as :func:`find_inputs`."""
        return [] if location.path in self.frames else find_inputs(self.folder, location)

    def reads_own_log(self, history: HistoryRecipe) -> bool:
        """Are the rows at hand the events of the history?"""
        return history.source == "log" and self.log is None

    def _open(self, file: InputFile, location: Location) -> RawFile:
        form = location.format or self.recipe.format
        known = (file.path, form.model_dump_json())
        if known not in self._opened:
            with ThreadPoolExecutor(1) as pool:  # the checksum takes a core while the lines are checked on another
                digest = pool.submit(checksum, file.path) if file.path not in self._checked else None
                raw = self._opened[known] = open_raw(file.path, form, self.scratch, self.bad.skip)
            self.bad.note(raw.dropped, raw.problems)
            if digest is not None:
                self._note(file, digest.result())
        actual = self._checked[file.path]
        if location.sha256 not in (None, actual):
            raise DataError(
                f"{file.path}: its SHA-256 is {actual}, the recipe expects {location.sha256}; it is not the "
                "published file (or was cut short): get it again, or take sha256 out of the recipe to use it anyway"
            )
        if self.known.get(file.name, actual) != actual:
            raise DataError(
                f"{file.path}: is not the file that the data set was prepared from (its SHA-256 is {actual}, that of "
                f"the file was {self.known[file.name]}); say where the files to be read are with --raw DIR"
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
                frame = self._table(table).join(frame, table.on, new)
                columns += new
        return frame, columns

    def _table(self, table: SideTable) -> SideRows:
        name = table.model_dump_json()
        if name not in self._tables:
            self._tables[name] = SideRows.read(self.open(table), table)
        return self._tables[name]


def _check_same_columns(first: RawFile, other: RawFile) -> None:
    for ours, theirs in ((first, other), (other, first)):
        if odd := [column for column in ours.columns if column not in theirs.columns]:
            raise DataError(
                f"{other.path}: its columns are not those of {first.path}: {odd[0]!r} is only in {ours.path.name}; the "
                "files of a folder or a pattern have the same columns"
            )

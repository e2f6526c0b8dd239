"""Opens raw files as lazy polars frames whose rows know where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from rectab.data.errors import DataError
from rectab.data.jsonl import open_jsonl
from rectab.data.missing import with_missing
from rectab.data.raw_bytes import PACKED, without_packing
from rectab.data.recipe_files import Format
from rectab.data.text import open_text

__all__ = ["FILE", "ROW", "RawFile", "kind_of", "open_frame", "open_raw"]

FILE = "__file"  # number of the file that a row is of
ROW = "__row"  # where a row stands: its line in text (the first of several), else its position, from 1


@dataclass
class RawFile:
    """One raw file.

    Attributes:
        path: as the user knows it.
        frame: its columns, with null in missing cells, and ``ROW``. Columns of delimited text are strings.
        columns: names without ``ROW``.
        is_text: whether it has lines.
        dropped: how many bad lines are not in ``frame``.
        problems: what was wrong with the first of them.
        null_values: texts that mean "no value" in this file.
    """

    path: Path
    frame: pl.LazyFrame
    columns: list[str]
    is_text: bool
    dropped: int = 0
    problems: list[str] = field(default_factory=list)
    null_values: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """``FILE, line N`` (or ``row N`` of a parquet file) of a row whose ``ROW`` this is."""
        return f"{self.path}, {'line' if self.is_text else 'row'} {row}"

    def with_constants(self, values: Mapping[str, str | None]) -> RawFile:
        """The file with columns that have one text each; None is a missing one.

        Raises:
            DataError: it has such a column already.
        """
        if clash := [column for column in values if column in self.columns]:
            raise DataError(
                f"{self.path}: column {clash[0]!r} is in the file and in the name of a folder, {clash[0]}=...; say "
                "hive = false beside its path to read the file's"
            )
        if not values:
            return self
        frame = self.frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in values.items())
        frame = with_missing(frame, values, self.null_values)
        return replace(self, frame=frame, columns=[*self.columns, *values])

    def require(self, columns: Iterable[str], why: str) -> None:
        """Raises DataError if a column is missing."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            shown = ", ".join(self.columns[:12]) + (", ..." if len(self.columns) > 12 else "")
            hint = "; is the separator right?" if self.is_text and len(self.columns) == 1 else ""
            if self.is_text and any(column.startswith('"') for column in self.columns):
                hint = "; names have quotes around them: say quote = '\"' in its format"
            raise DataError(f"{self.path}: no column {missing[0]!r} ({why}); it has: {shown}{hint}")


def open_raw(path: Path, form: Format, scratch: Path, skip_bad: bool) -> RawFile:
    """Open a csv, parquet or jsonl file.

    Args:
        path: the file.
        form: how it is written.
        scratch: folder for plain copies.
        skip_bad: leave lines that cannot be read out, instead of raising.

    Raises:
        DataError: naming the file and, for text, the line.
    """
    kind = form.kind or kind_of(path)
    if kind == "parquet":
        raw = _open_parquet(path)
    else:
        text = (open_jsonl if kind == "jsonl" else open_text)(path, form, scratch, skip_bad, ROW)
        raw = RawFile(path, text.frame, text.columns, True, text.dropped, text.problems)
    return _with_nulls(raw, form)


def open_frame(name: str, frame: pl.DataFrame, form: Format) -> RawFile:
    """Rows in memory as a raw file; ``name`` stands for its path in messages.

    Raises:
        DataError: a column has a name that rectab needs.
    """
    return _with_nulls(RawFile(Path(name), _numbered(frame.lazy(), frame.columns), frame.columns, False), form)


def _with_nulls(raw: RawFile, form: Format) -> RawFile:
    if ROW in raw.columns:
        raise DataError(f"{raw.path}: has a column {ROW!r}, a name that rectab needs; rename it")
    raw.frame, raw.null_values = with_missing(raw.frame, raw.columns, form.null_values), form.null_values
    return raw


def _numbered(frame: pl.LazyFrame, columns: Iterable[str]) -> pl.LazyFrame:
    return frame if ROW in columns else frame.with_row_index(ROW, 1)


def kind_of(path: Path) -> str:
    """What a file is by its ending: ``parquet``, ``jsonl`` or, where it says nothing else, ``csv``."""
    name = without_packing(path.name)
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    return "jsonl" if name.endswith((".jsonl", ".json", ".ndjson")) else "csv"


def _open_parquet(path: Path) -> RawFile:
    if path.suffix in PACKED:
        raise DataError(f"{path}: a packed parquet file; unpack it (parquet is compressed within)")
    try:
        frame = pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False)
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from None
    return RawFile(path, _numbered(frame, schema), list(schema), False)

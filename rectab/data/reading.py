"""Opens raw files as lazy polars frames whose rows know their line number."""

from __future__ import annotations

import ast
import bisect
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rectab.data.errors import DataError
from rectab.data.recipe_parts import Format
from rectab.data.text import check_text, open_bytes, read_blocks

__all__ = ["INTEGERS", "ROW", "RawFile", "checksum", "find_file", "open_raw"]

INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
ROW = "__row"  # position of a row in the file as read, from 0
_JSON_ROWS = 200_000


@dataclass
class RawFile:
    """One raw file.

    Attributes:
        path: as the user knows it.
        frame: its columns, and ``ROW``. Columns of delimited text are strings.
        columns: names without ``ROW``.
        is_text: whether it has lines.
        lines_before_rows: header lines.
        dropped: line numbers that are not rows of ``frame``, ascending.
        problems: why lines were dropped.
    """

    path: Path
    frame: pl.LazyFrame
    columns: list[str]
    is_text: bool
    lines_before_rows: int = 0
    dropped: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """``FILE, line N`` (or ``row N`` of a parquet file), counted from 1."""
        if not self.is_text:
            return f"{self.path}, row {row + 1}"
        line = row + 1 + self.lines_before_rows
        for dropped in self.dropped[: bisect.bisect_right(self.dropped, line + len(self.dropped))]:
            if dropped <= line:
                line += 1
        return f"{self.path}, line {line}"

    def require(self, columns: Iterable[str], why: str) -> None:
        """Raises DataError if a column is missing."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            shown = ", ".join(self.columns[:12]) + (", ..." if len(self.columns) > 12 else "")
            hint = "; is the separator right?" if self.is_text and len(self.columns) == 1 else ""
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
    kind = form.kind or _kind_of(path)
    if kind == "parquet":
        return _open_parquet(path)
    if kind == "jsonl":
        return _open_jsonl(path, form, scratch, skip_bad)
    checked = check_text(path, form, scratch, skip_bad)
    frame = pl.scan_csv(
        checked.path,
        separator=checked.separator,
        has_header=False,
        skip_rows=int(form.header),  # the header is read already
        raise_if_empty=False,
        schema=dict.fromkeys(checked.columns, pl.String),
        quote_char=form.quote,
        null_values=list(form.null_values) or None,
        row_index_name=ROW,
    )
    return RawFile(path, frame, checked.columns, True, int(form.header), checked.dropped, checked.problems)


def find_file(path: Path) -> Path:
    """The file itself or, where only that is there, the same name with .gz.

    Raises:
        DataError: if there is neither.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and packed.is_file():
        return packed
    if not path.is_file():
        raise DataError(f"{path}: no such file; see the recipe's source for where to get it")
    return path


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, hex; of what is inside, for .gz (the same file may be packed in many ways)."""
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _kind_of(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    return "jsonl" if name.endswith((".jsonl", ".json", ".ndjson")) else "csv"


def _open_parquet(path: Path) -> RawFile:
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from None
    texts = [pl.col(c).replace("", None) for c, dtype in schema.items() if dtype == pl.String]  # as in text files
    frame = pl.scan_parquet(path, row_index_name=ROW).with_columns(texts)
    return RawFile(path, frame, list(schema), False)


def _open_jsonl(path: Path, form: Format, scratch: Path, skip_bad: bool) -> RawFile:
    """Read objects line by line; the fields asked for become text columns of parquet parts in ``scratch``."""
    parts = scratch / f"{path.name}.parts"
    parts.mkdir()
    paths = {column: field_path.split(".") for column, field_path in form.fields.items()}
    parse = ast.literal_eval if form.python_literals else json.loads
    raw = RawFile(path, pl.LazyFrame(), list(paths), True)
    rows: dict[str, list[str | None]] = {column: [] for column in paths}
    written, first = 0, next(iter(paths))

    def write() -> None:
        nonlocal written
        frame = pl.DataFrame(rows, schema=dict.fromkeys(paths, pl.String))
        frame.write_parquet(parts / f"{written:06d}.parquet")
        written += 1
        for values in rows.values():
            values.clear()

    number = 0
    for block in read_blocks(path):
        for line in block.splitlines():
            number += 1
            try:
                content = parse(line.decode("utf-8"))
                cells = {column: _look_up(content, steps) for column, steps in paths.items()}
            except (ValueError, SyntaxError) as error:  # covers JSON and UTF-8 errors
                problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not readable ({error})"
                if not skip_bad:
                    raise DataError(f"{path}, line {number}: {problem}") from None
                raw.dropped.append(number)
                raw.problems.append(f"{path.name}, line {number}: {problem}")
                continue
            for column, cell in cells.items():
                rows[column].append(cell)
            if len(rows[first]) >= _JSON_ROWS:
                write()
    write()
    raw.frame = pl.scan_parquet(parts / "*.parquet", row_index_name=ROW)
    return raw


def _look_up(content: Any, steps: list[str]) -> str | None:
    for step in steps:
        try:
            content = content[int(step)] if isinstance(content, list) else content[step]
        except (KeyError, IndexError, TypeError):
            return None
    return None if content is None else str(content)

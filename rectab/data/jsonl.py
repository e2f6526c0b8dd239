"""Reads files of one object a line; the fields that a recipe asks for become text columns."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rectab.data.errors import DataError
from rectab.data.raw_bytes import read_blocks
from rectab.data.recipe_files import Format
from rectab.data.text import SHOWN_PROBLEMS, TextFile

__all__ = ["cell_text", "open_jsonl"]

_PART_ROWS = 200_000
_LONGEST = 40  # digits of a whole number that is written with an exponent


def open_jsonl(path: Path, form: Format, scratch: Path, skip_bad: bool, row: str) -> TextFile:
    """Read the objects of a file into parquet parts in ``scratch``, and open these.

    Args:
        path: the file, plain, .gz or .zst.
        form: how it is written; its ``fields`` say what is read.
        scratch: folder for the parts.
        skip_bad: leave bad lines out instead of raising.
        row: name of the column of line numbers.

    Raises:
        DataError: naming the file and the line.
    """
    folder = scratch / f"{path.name}-{len(list(scratch.iterdir()))}.parts"
    folder.mkdir()
    reader = _Reader(path, form, skip_bad)
    schema = {**dict.fromkeys(reader.paths, pl.String), row: pl.Int64}
    parts: list[Path] = []
    for rows in reader.parts():
        parts.append(folder / f"{len(parts):06d}.parquet")
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(parts[-1])
    return TextFile(pl.scan_parquet(parts, glob=False), list(reader.paths), reader.dropped, reader.problems)


class _Reader:
    def __init__(self, path: Path, form: Format, skip_bad: bool) -> None:
        self.path, self.skip_bad = path, skip_bad
        self.paths = {column: steps.split(".") for column, steps in form.fields.items()}
        self.parse = ast.literal_eval if form.python_literals else partial(json.loads, parse_float=_digits)
        self.dropped, self.problems = 0, list[str]()

    def parts(self) -> Iterator[list[tuple[str | int | None, ...]]]:
        """Rows, (a cell a field, line), some at a time; at least one part, which may be empty."""
        rows: list[tuple[str | int | None, ...]] = []
        number = 0
        for block in read_blocks(self.path):
            for line in block.split(b"\n")[:-1]:
                number += 1
                if line.strip() and (cells := self._cells(line, number)) is not None:
                    rows.append((*cells, number))
            if len(rows) >= _PART_ROWS:
                yield rows
                rows = []
        yield rows

    def _cells(self, line: bytes, number: int) -> list[str | None] | None:
        try:
            content = self.parse(line.decode("utf-8").strip())
            return [cell_text(_look_up(content, steps)) for steps in self.paths.values()]
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # of JSON, literals and UTF-8
            problem = _explain(error)
        if not self.skip_bad:
            raise DataError(f"{self.path}, line {number}: {problem}")
        self.dropped += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"{self.path.name}, line {number}: {problem}")
        return None


def _look_up(content: Any, steps: list[str]) -> Any:
    for step in steps:
        try:
            content = content[int(step)] if isinstance(content, list) else content[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return content


def _digits(number: str) -> str:
    """A JSON number with a fraction or an exponent, as text, so that no digit is lost: 7.0 as 7."""
    try:
        exact = Decimal(number)
        return str(int(exact)) if exact.adjusted() < _LONGEST and exact == exact.to_integral_value() else number
    except ArithmeticError:  # an exponent beyond all reason
        return number


def cell_text(value: Any) -> str | None:
    """A cell as delimited text would hold it: 7.0 as 7, true as 1, NaN as nothing; lists and objects as JSON."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value) if value.is_integer() else value)
    if isinstance(value, (list, tuple)):
        value = json.dumps([cell_text(element) for element in value], ensure_ascii=False)
    elif isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = "" if value is None else str(value)
    if not text.isascii():
        text.encode()  # raises where a character is half of a surrogate pair
    return text or None


def _explain(error: Exception | MemoryError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} of the line is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a text holds half of a surrogate pair, which is no character"
    if isinstance(error, (RecursionError, MemoryError)):
        return "nested too deep to be read"
    return f"not readable ({error})"

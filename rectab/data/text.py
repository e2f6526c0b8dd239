"""Checks delimited text line by line before polars reads it, so that an error can name the line.

One pass over the bytes finds what polars cannot report well: a gzip that ends early, bytes that are no UTF-8, lines
with too few or too many fields. Where the file cannot be scanned as it is (compressed, another encoding, a long
separator, lines to leave out), the pass writes a plain copy into the scratch folder.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np

from rectab.data.errors import DataError
from rectab.data.recipe_parts import Format

__all__ = ["CheckedText", "check_text", "open_bytes", "read_blocks"]

_BLOCK_BYTES = 1 << 24
_UNIT_SEPARATOR = "\x1f"  # stands in for separators of more than one character, which polars cannot read


@dataclass
class CheckedText:
    """A delimited file that polars can scan.

    Attributes:
        path: the file itself, or its plain copy.
        columns: names in order.
        separator: of ``path``.
        dropped: line numbers (from 1) of the original that are not rows of ``path``, ascending.
        problems: what was wrong with the lines dropped for a reason (blank lines are not among them).
    """

    path: Path
    columns: list[str]
    separator: str
    dropped: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, seeing through .gz."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def read_blocks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines.

    Raises:
        DataError: if the file is missing or a gzip is damaged or ends early; names the line reached.
    """
    line = 1
    rest = b""
    try:
        with open_bytes(path) as file:
            while block := file.read(_BLOCK_BYTES):
                block = rest + block
                cut = block.rfind(b"\n") + 1
                rest = block[cut:]
                if cut:
                    line += block.count(b"\n", 0, cut)
                    yield block[:cut]
        if rest:
            yield rest
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; see the recipe's source for where to get it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip after line {line} ({error}); download it again") from None


def check_text(path: Path, form: Format, scratch: Path, skip_bad: bool) -> CheckedText:
    """Check every line of a delimited file.

    Args:
        path: the file, plain or .gz.
        form: how it is written.
        scratch: folder for a plain copy, if one is needed.
        skip_bad: leave bad lines out instead of raising.

    Raises:
        DataError: naming the file and the line.
    """
    separator = form.separator if len(form.separator) == 1 else _UNIT_SEPARATOR
    columns = _column_names(path, form)
    copy = path.suffix == ".gz" or form.encoding != "utf-8" or separator != form.separator
    for attempt in (copy, True):
        checked = CheckedText(path, columns, separator)
        target = scratch / f"{path.stem}-{len(list(scratch.iterdir()))}.txt" if attempt else None
        _check_lines(path, form, checked, target, skip_bad)
        if target is not None:
            checked.path = target
        if target is not None or not checked.dropped:
            break
    return checked


def _column_names(path: Path, form: Format) -> list[str]:
    if not form.header:
        return list(form.columns)
    first = next(read_blocks(path), b"").split(b"\n", 1)[0].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf")
    try:
        text = first.decode(form.encoding)
    except UnicodeDecodeError:
        raise DataError(f"{path}, line 1: the header is not {form.encoding}") from None
    if not text:
        raise DataError(f"{path}: empty, where a header line was expected")
    names = (
        next(csv.reader([text], delimiter=form.separator, quotechar=form.quote))
        if form.quote
        else text.split(form.separator)
    )
    names = [name.strip() for name in names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: column {repeated[0]!r} appears {names.count(repeated[0])} times; rename one")
    return names


def _check_lines(path: Path, form: Format, checked: CheckedText, target: Path | None, skip_bad: bool) -> None:
    number = 1  # of the block's first line
    out = target.open("wb") if target is not None else None
    try:
        for raw in read_blocks(path):
            block = _Block(raw, number, form, checked.separator, len(checked.columns))
            dropped = block.dropped_lines(path)
            for line, problem in dropped.items():
                if problem and not skip_bad:
                    raise DataError(f"{path}, line {line}: {problem}")
                checked.dropped.append(line)
                if problem:
                    checked.problems.append(f"{path.name}, line {line}: {problem}")
            if out is not None:
                out.write(block.without(dropped))
            number += block.lines
    finally:
        if out is not None:
            out.close()


class _Block:
    """Some whole lines of the file and what is wrong with them."""

    def __init__(self, raw: bytes, first_line: int, form: Format, separator: str, fields: int) -> None:
        self.form, self.separator, self.fields = form, separator, fields
        self.first_line = first_line
        self.bytes = raw.decode("latin-1").encode() if form.encoding == "latin-1" else raw
        if separator != form.separator:
            self.bytes = self.bytes.replace(form.separator.encode(), separator.encode())
        self.array = np.frombuffer(self.bytes, np.uint8)
        ends = np.flatnonzero(self.array == ord("\n"))
        if not self.bytes.endswith(b"\n"):
            ends = np.append(ends, len(self.array))
        self.ends = ends
        self.starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        self.lines = len(ends)

    def line(self, index: int) -> bytes:
        return self.bytes[self.starts[index] : self.ends[index]].rstrip(b"\r")

    def dropped_lines(self, path: Path) -> dict[int, str]:
        """Line number -> what is wrong with it ('' for a blank line), in ascending order."""
        suspects = set(self._miscounted()) | set(self._undecodable())
        found = {}
        for index in sorted(suspects):
            problem = self._explain(self.line(index))
            if problem is not None:
                found[self.first_line + index] = problem
        return found

    def without(self, dropped: dict[int, str]) -> bytes:
        if not dropped:
            return self.bytes
        kept, start = [], 0
        for line in dropped:
            index = line - self.first_line
            kept.append(self.bytes[start : self.starts[index]])
            start = min(int(self.ends[index]) + 1, len(self.bytes))
        return b"".join([*kept, self.bytes[start:]])

    def _miscounted(self) -> np.ndarray:
        """Lines that do not have ``fields - 1`` separators (quotes not considered), and blank ones."""
        positions = np.flatnonzero(self.array == ord(self.separator))
        count = np.diff(np.searchsorted(positions, self.ends), prepend=0)
        blank = self.ends - self.starts <= 1
        return np.flatnonzero((count != self.fields - 1) | blank)

    def _undecodable(self) -> list[int]:
        try:
            self.bytes.decode("utf-8")
            return []
        except UnicodeDecodeError:
            return [index for index in range(self.lines) if not _is_utf8(self.line(index))]

    def _explain(self, line: bytes) -> str | None:
        if not line and self.fields > 1:
            return ""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} of the line (0x{line[error.start]:02x})"
            return f"{byte} is not UTF-8; convert the file or set encoding"
        fields = len(text.split(self.separator))
        if self.form.quote and self.form.quote in text:
            if text.count(self.form.quote) % 2:
                return None  # a quoted field goes over several lines: left to polars
            fields = len(next(csv.reader([text], delimiter=self.separator, quotechar=self.form.quote)))
        if fields == self.fields:
            return None
        hint = f"; is {self.form.separator!r} the right separator?" if fields == 1 else ""
        return f"{fields} fields where {self.fields} are expected{hint}"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False

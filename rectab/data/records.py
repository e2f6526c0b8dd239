"""The records of a delimited file, a block at a time, with what is wrong with each."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rectab.data.errors import DataError
from rectab.data.raw_bytes import read_blocks
from rectab.data.recipe_files import Format
from rectab.data.record_scan import (
    BLANK,
    LINE,
    MODE,
    NO_QUOTE,
    QUOTE_LINE,
    QUOTED,
    STATE_SIZE,
    STRAY_QUOTE,
    TEXT_AFTER_QUOTE,
    scan_lines,
    scan_records,
)

__all__ = ["Block", "Records"]

_DIGITS = 22  # room for a line number and two marks


@dataclass
class Block:
    """The records that end in some whole lines of a file.

    Attributes:
        data: the lines, UTF-8. ends: int64 [m], where each record ends in it.
        fields, lines: int64 [m]: how many of each a record has.
        first_line: int64 [m]: where a record starts.
        is_blank, is_odd: bool [m]: records of nothing; records that polars would read otherwise than ``csv`` does.
        problems: record -> (line, what is wrong whatever the columns).
        out: uint8: the records in plain form, and what there is of one that does not end here; empty if not asked for.
        out_ends: int64 [m].
    """

    data: bytes
    ends: np.ndarray
    fields: np.ndarray
    lines: np.ndarray
    first_line: np.ndarray
    is_blank: np.ndarray
    is_odd: np.ndarray
    problems: dict[int, tuple[int, str]]
    out: np.ndarray
    out_ends: np.ndarray

    @property
    def is_open(self) -> bool:
        """Does a record begin here, or go on, that ends in a later block?"""
        return not len(self.ends) or bool(self.ends[-1] < len(self.data))

    def text(self, record: int) -> bytes:
        """The bytes of a record, as far as they are in this block."""
        return self.data[self.ends[record - 1] if record else 0 : self.ends[record]]


class Records:
    """Reads the records of a file.

    Args:
        path: the file.
        form: how it is written.
        fields: how many a record has; only needed where the last one takes the rest of its line.
    """

    def __init__(self, path: Path, form: Format, fields: int = 0) -> None:
        self.path, self.form = path, form
        self.separator = np.frombuffer(form.separator.encode(), np.uint8)
        self.quote = ord(form.quote) if form.quote else NO_QUOTE
        self.rest_field = fields if form.ragged else 0
        self.counts_lines = self.quote == NO_QUOTE and len(self.separator) == 1 and not form.ragged
        self.controls = np.zeros(32, np.uint8)  # which control characters values hold, as far as was read

    def blocks(self, marks: bytes | None = None) -> Iterator[Block]:
        """The records in order.

        Args:
            marks: separator, end of record and carriage return of the plain form; None makes none.

        Raises:
            DataError: a quote is never closed, or the file cannot be read.
        """
        state = np.zeros(STATE_SIZE, np.int64)
        state[LINE] = 1
        unfinished: tuple[int, str] | None = None  # what is wrong with a record that has not ended
        line = 1
        for raw in read_blocks(self.path):
            data = raw.decode("latin-1").encode() if self.form.encoding == "latin-1" else raw
            num_lines = data.count(b"\n")
            block = self._scan(data, num_lines, state, marks)
            undecodable = _undecodable(block, line)
            if unfinished is not None:
                undecodable[0] = unfinished
            unfinished = undecodable.pop(len(block.ends), None)
            block.problems |= undecodable
            line += num_lines
            yield block
        if state[MODE] == QUOTED:
            raise DataError(
                f"{self.path}, line {state[QUOTE_LINE]}: the quote that opens here is never closed; close it, or take "
                "quote out of [format] if quotes are characters like any other"
            )

    def _scan(self, data: bytes, num_lines: int, state: np.ndarray, marks: bytes | None) -> Block:
        found, out_ends = np.empty((num_lines, 5), np.int64), np.empty(num_lines, np.int64)
        out = np.empty(len(data) + _DIGITS * num_lines if marks else 0, np.uint8)
        begin, values = int(state[LINE]), np.frombuffer(data, np.uint8)
        if self.counts_lines and not marks:
            count, size = scan_lines(values, self.separator[0], state[LINE:], found, self.controls), 0
        else:
            how = (self.separator, self.quote, self.rest_field, state, np.frombuffer(marks or bytes(3), np.uint8))
            count, size = scan_records(values, *how, found, out, out_ends, self.controls)
        ends, fields, lines, flags, quote_lines = found[:count].T
        first_line = begin + np.cumsum(lines) - lines
        pasted = np.flatnonzero(flags & TEXT_AFTER_QUOTE)
        problems = {int(index): (int(first_line[index]), _pasted(quote_lines[index])) for index in pasted}
        return Block(
            data=data,
            ends=ends,
            fields=fields,
            lines=lines,
            first_line=first_line,
            is_blank=(flags & BLANK) != 0,
            is_odd=((flags & STRAY_QUOTE) != 0) | (lines > 1),
            problems=problems,
            out=out[:size],
            out_ends=out_ends[:count],
        )


def _pasted(line: int) -> str:
    return f'text after the closing quote of a field that opens in line {line}; a quote within a value is doubled ("")'


def _undecodable(block: Block, line: int) -> dict[int, tuple[int, str]]:
    """Record -> (line, problem) where bytes are no UTF-8; record m is the one that does not end in the block.

    ``line`` is the number of the block's first line.
    """
    data, ends = block.data, block.ends
    problems: dict[int, tuple[int, str]] = {}
    view, at, counted = memoryview(data), 0, 0
    while at < len(data):
        try:
            codecs.utf_8_decode(view[at:], "strict", True)
            break
        except UnicodeDecodeError as error:
            position = at + error.start
        line += data.count(b"\n", counted, position)
        counted = position
        in_line = position - data.rfind(b"\n", 0, position)
        record = int(np.searchsorted(ends, position, side="right"))
        problems[record] = (
            line,
            f"byte {in_line} of the line (0x{data[position]:02x}) is not UTF-8; convert the file or set encoding",
        )
        at = int(ends[record]) if record < len(ends) else len(data)
    return problems

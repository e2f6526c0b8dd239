"""Checks delimited text record by record before polars reads it, so that an error can name the line.

One pass finds what polars cannot report well: a packed file that ends early, bytes that are no UTF-8, records with too
few or too many fields, quotes that are never closed. Where polars cannot scan the file as it is (packed, another
encoding, a long separator, values over several lines, records to leave out), the pass writes a plain copy into the
scratch folder: bare values between control characters that no value holds, and behind them the line of the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rectab.data.errors import DataError
from rectab.data.raw_bytes import PACKED
from rectab.data.recipe_files import Format
from rectab.data.records import Block, Records

__all__ = ["SHOWN_PROBLEMS", "TextFile", "open_text"]

# What plain copies may use for separator, end of record and carriage return (polars cuts one off the end of a value).
_CONTROLS = [code for code in range(31, 0, -1) if code not in b"\t\n\r"]
_HEADER_MARKS = b"\x1f\x1e\r"
_RETURN = ord("\r")
SHOWN_PROBLEMS = 20  # problems that are remembered


@dataclass
class TextFile:
    """A delimited file that polars scans.

    Attributes:
        frame: its columns as text, and ``row``: the line of each record.
        columns: names in order.
        dropped: how many bad records are not in ``frame``.
        problems: what was wrong with the first of them.
    """

    frame: pl.LazyFrame
    columns: list[str]
    dropped: int
    problems: list[str]


def open_text(path: Path, form: Format, scratch: Path, skip_bad: bool, row: str) -> TextFile:
    """Check every record of a delimited file and open it.

    Args:
        path: the file, plain, .gz or .zst.
        form: how it is written.
        scratch: folder for a plain copy, if one is needed.
        skip_bad: leave bad records out instead of raising.
        row: name of the column of line numbers.

    Raises:
        DataError: naming the file and the line.
    """
    columns = _column_names(path, form)
    if form.ragged and len(columns) < 2:
        raise DataError(f"{path}: ragged needs a column before the one that takes the rest of the line")
    records = Records(path, form, len(columns))
    check = _Check(records, len(columns), skip_bad)
    if check.is_plain():
        return TextFile(_scan_file(path, form, columns, row), columns, 0, [])
    target = scratch / f"{path.stem}-{len(list(scratch.iterdir()))}.txt"
    while True:
        marks = _unused_controls(records)
        check = _Check(records, len(columns), skip_bad)
        if check.copy(target, marks):
            break
    frame = _scan_copy(target, marks, bool(records.controls[_RETURN]), columns, row)
    return TextFile(frame, columns, check.dropped, check.problems)


def _scan_file(path: Path, form: Format, columns: list[str], row: str) -> pl.LazyFrame:
    return pl.scan_csv(
        path.absolute(),
        glob=False,
        separator=form.separator,
        has_header=False,
        skip_rows=int(form.header),  # the header is read already
        raise_if_empty=False,
        schema=dict.fromkeys(columns, pl.String),
        quote_char=form.quote,
        row_index_name=row,
        row_index_offset=1 + int(form.header),
    )


def _scan_copy(path: Path, marks: bytes, has_returns: bool, columns: list[str], row: str) -> pl.LazyFrame:
    frame = pl.scan_csv(
        path,
        glob=False,
        separator=chr(marks[0]),
        eol_char=chr(marks[1]),
        has_header=False,
        raise_if_empty=False,
        schema={**dict.fromkeys(columns, pl.String), row: pl.Int64},
        quote_char=None,
    )
    if not has_returns:
        return frame
    return frame.with_columns(pl.col(pl.String).str.replace_all(chr(marks[2]), "\r", literal=True))


def _column_names(path: Path, form: Format) -> list[str]:
    if not form.header:
        if not form.columns:
            raise DataError(f"{path}: a file without a header needs columns = [...] in its format")
        return list(form.columns)
    line, text = _header(path, form)
    names = [name.strip() for name in text.split(chr(_HEADER_MARKS[0]))[:-1]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        times = names.count(repeated[0])
        raise DataError(f"{path}, line {line}: column {repeated[0]!r} appears {times} times; rename one")
    return names


def _header(path: Path, form: Format) -> tuple[int, str]:
    """(line, the first record that is not blank in plain form)."""
    begun = b""
    for block in Records(path, form).blocks(_HEADER_MARKS):
        begin = 0
        for record, end in enumerate(block.out_ends):
            if not block.is_blank[record]:
                if record in block.problems:
                    line, problem = block.problems[record]
                    raise DataError(f"{path}, line {line}: the header: {problem}")
                return int(block.first_line[record]), (begun + block.out[begin:end].tobytes()).decode()
            begin = int(end)
        begun += block.out[begin:].tobytes()
    raise DataError(f"{path}: empty, where a header line was expected")


def _unused_controls(records: Records) -> bytes:
    """Three control characters that no value holds, as far as the file was read."""
    unused = [code for code in _CONTROLS if not records.controls[code]]
    if len(unused) < 3:
        raise DataError(f"{records.path}: its values hold every control character there is; it is no text")
    return bytes(unused[:3])


class _Check:
    """One pass over a file's records, which are counted and kept, left out, or refused."""

    def __init__(self, records: Records, fields: int, skip_bad: bool) -> None:
        self.records, self.fields, self.skip_bad = records, fields, skip_bad
        self.dropped, self.problems = 0, list[str]()
        self.header_to_come = records.form.header

    def is_plain(self) -> bool:
        """Can polars scan the file as it is? Raises DataError for a bad record."""
        form, path = self.records.form, self.records.path
        if path.suffix in PACKED or form.encoding != "utf-8" or len(form.separator.encode()) > 1 or form.ragged:
            return False
        for block in self.records.blocks():
            self._rows(block)
            if self.dropped or block.is_open or block.is_odd.any() or block.is_blank.any():
                return False
        return not self.records.controls[_RETURN]

    def copy(self, target: Path, marks: bytes) -> bool:
        """Write the rows to ``target`` in plain form; False where values turn out to hold one of the marks."""
        begun = 0  # where the record starts that has not ended yet
        with target.open("wb") as file:
            for block in self.records.blocks(marks):
                written = 0
                for record in np.flatnonzero(~self._rows(block)):
                    begin = block.out_ends[record - 1] if record else 0
                    if record == 0:  # it may have begun in earlier blocks
                        file.seek(begun)
                        file.truncate()
                    file.write(block.out[written:begin].data)
                    written = block.out_ends[record]
                end = block.out_ends[-1] if len(block.out_ends) else 0
                file.write(block.out[written:end].data)
                begun = file.tell() if len(block.out_ends) else begun
                file.write(block.out[end:].data)
                if self.records.controls[list(marks)].any():
                    return False
        return True

    def _rows(self, block: Block) -> np.ndarray:
        """bool [m]: which records are rows."""
        rows = ~block.is_blank
        bad = rows & (block.fields != self.fields)
        bad[list(block.problems)] = True
        if self.header_to_come and rows.any():
            header = int(np.argmax(rows))
            rows[header] = bad[header] = self.header_to_come = False
        for record in np.flatnonzero(bad):
            if self.skip_bad and len(self.problems) == SHOWN_PROBLEMS:
                break
            line, problem = block.problems.get(int(record)) or self._miscounted(block, int(record))
            if not self.skip_bad:
                raise DataError(f"{self.records.path}, line {line}: {problem}")
            self.problems.append(f"{self.records.path.name}, line {line}: {problem}")
        self.dropped += int(bad.sum())
        return rows & ~bad

    def _miscounted(self, block: Block, record: int) -> tuple[int, str]:
        line, count, form = int(block.first_line[record]), int(block.fields[record]), self.records.form
        last = line + int(block.lines[record]) - 1
        where = f" (it goes on to line {last})" if last > line else ""
        hint = f"; is {form.separator!r} the right separator?" if count == 1 else ""
        if form.quote is None and b'"' in block.text(record):
            hint = "; it has quotes: say quote = '\"' in its format if they go around values"
        return line, f"{count} fields where {self.fields} are expected{where}{hint}"

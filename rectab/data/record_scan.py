"""Where the records of delimited text end, byte by byte: the one place that knows how quotes and separators work.

The grammar is that of RFC 4180 and of Python's ``csv``: a quote at the start of a field opens it, a doubled one inside
stands for itself, and separators and line ends inside are part of the value; a quote within a field that does not start
with one is a character like any other. Text after a closing quote is a fault (``csv`` would paste it on).
"""

from __future__ import annotations

import numpy as np

from rectab.jit import compiled, kernel

__all__ = [
    "BLANK",
    "LINE",
    "MODE",
    "NO_QUOTE",
    "QUOTED",
    "QUOTE_LINE",
    "STATE_SIZE",
    "STRAY_QUOTE",
    "TEXT_AFTER_QUOTE",
    "scan_lines",
    "scan_records",
]

NO_QUOTE = 256  # no byte has this value
BLANK, STRAY_QUOTE, TEXT_AFTER_QUOTE = 1, 2, 4  # flags of a record

# What is carried from block to block, by position.
MODE, FIELDS, LINES, FLAGS, LINE, QUOTE_LINE, STATE_SIZE = range(7)
# Modes: where the next byte stands.
START, RAW, QUOTED, CLOSED, REST = range(5)

_NEWLINE, _RETURN = ord("\n"), ord("\r")


@kernel
def scan_records(data, separator, quote, rest_field, state, marks, found, out, out_ends, controls):  # type: ignore[no-untyped-def]
    """Find the records that end in a block, and write them plainly.

    Args:
        data: uint8 [n], whole lines, the last byte a line end; a record may have begun in the block before.
        separator: uint8 [k], between fields.
        quote: the byte around fields, or ``NO_QUOTE``.
        rest_field: number of the field (from 1) that takes the rest of its line as it is; 0 if none does.
        state: int64 [STATE_SIZE], carried along; all zero at the start of a file, but ``LINE``, which is 1.
        marks: uint8 [3], in ``out``: separator, end of record, and what stands for a carriage return in a value.
        found: int64 [m, 5], filled with a row a record: end in ``data``, number of fields, number of lines, flags, line
            where its last quoted field opens.
        out: uint8, filled with the records in plain form: bare values, each followed by ``marks[0]``, then the number
            of the record's first line and ``marks[1]``. Nothing is written if its length is 0.
        out_ends: int64 [m], filled: where each record ends in ``out``.
        controls: uint8 [32], filled: 1 for every control character that a value holds.

    Returns:
        (number of records, where ``out`` ends: behind what there is of a record that does not end in this block).
    """
    mode, fields, lines, flags, line, quote_line = state[0], state[1], state[2], state[3], state[4], state[5]
    plain = np.ones(256, np.bool_)
    plain[:32] = False
    plain[separator[0]] = False
    if quote != NO_QUOTE:
        plain[quote] = False
    writes = len(out) > 0
    records, at, i, n, width = 0, 0, 0, len(data), len(separator)
    while i < n:
        byte = data[i]
        if plain[byte]:  # most bytes; the last of a block is a line end, so the loop within stops
            if mode == CLOSED:
                flags |= TEXT_AFTER_QUOTE
            if mode in (START, CLOSED):
                mode = RAW
            first = i
            while plain[data[i]]:
                i += 1
            if writes:
                for k in range(first, i):
                    out[at] = data[k]
                    at += 1
            continue
        if mode == QUOTED:
            if byte == quote:
                mode = CLOSED
                i += 1
                continue
            if byte == _NEWLINE:
                lines += 1
        elif byte == separator[0] and mode != REST and (width == 1 or _is_at(data, i, separator)):
            fields += 1
            mode = REST if fields + 1 == rest_field else START
            if writes:
                out[at] = marks[0]
                at += 1
            i += width
            continue
        elif byte == _NEWLINE:
            if mode == START and fields == 0:
                flags |= BLANK
            found[records, 0] = i + 1
            found[records, 1] = fields + 1
            found[records, 2] = lines + 1
            found[records, 3] = flags
            found[records, 4] = quote_line
            if writes:
                out[at] = marks[0]
                at = _write_number(out, at + 1, line)
                out[at] = marks[1]
                at += 1
            out_ends[records] = at
            records += 1
            line += lines + 1
            mode, fields, lines, flags = START, 0, 0, 0
            i += 1
            continue
        elif byte == _RETURN and data[i + 1] == _NEWLINE:
            i += 1
            continue
        elif mode == REST:
            pass
        elif mode == CLOSED and byte == quote:
            mode = QUOTED
        elif mode == START and byte == quote:
            mode = QUOTED
            quote_line = line + lines
            i += 1
            continue
        else:
            if mode == CLOSED:
                flags |= TEXT_AFTER_QUOTE
            elif byte == quote:
                flags |= STRAY_QUOTE
            mode = RAW
        if byte < 32:
            controls[byte] = 1
        if writes:
            out[at] = marks[2] if byte == _RETURN else byte
            at += 1
        i += 1
    state[0], state[1], state[2], state[3], state[4], state[5] = mode, fields, lines, flags, line, quote_line
    return records, at


@kernel
def scan_lines(data, separator, line, found, controls):  # type: ignore[no-untyped-def]
    """What :func:`scan_records` finds where every line is a record (no quotes, a separator of one byte, nothing to
    write): counting is enough, and several times faster.

    Args:
        data, found, controls: as there; of ``controls``, only the carriage return is looked for.
        separator: a byte.
        line: int64 [1], number of the first line; moved on.

    Returns:
        The number of records.
    """
    records, begin = 0, 0
    for end in range(len(data)):
        if data[end] != _NEWLINE:
            continue
        separators, returns = 0, 0
        for i in range(begin, end):
            separators += data[i] == separator
            returns += data[i] == _RETURN
        ends_with_return = end > begin and data[end - 1] == _RETURN
        if returns > ends_with_return:
            controls[_RETURN] = 1
        found[records, 0] = end + 1
        found[records, 1] = separators + 1
        found[records, 2] = 1
        found[records, 3] = BLANK if end - ends_with_return == begin else 0
        found[records, 4] = 0
        records += 1
        begin = end + 1
    line[0] += records
    return records


@compiled
def _is_at(data, i, text):  # type: ignore[no-untyped-def]
    if i + len(text) > len(data):
        return False
    same = 1
    while same < len(text) and data[i + same] == text[same]:
        same += 1
    return same == len(text)


@compiled
def _write_number(out, at, number):  # type: ignore[no-untyped-def]
    """Write the decimal digits of ``number`` from ``at`` on; returns where they end."""
    digits = 1
    bound = 10
    while number >= bound:
        digits += 1
        bound *= 10
    for k in range(at + digits - 1, at - 1, -1):
        out[k] = ord("0") + number % 10
        number //= 10
    return at + digits

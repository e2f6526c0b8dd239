"""Vectors out of blocks of packed bytes, decoded in registers: the numba kernel of the quantized table.

A table is cut into blocks of rows, each held in one encoding (:mod:`rectab.quantize.encodings`), whose payload lies at
any byte. :mod:`rectab.tables.quantized.codes` says how an encoding is written as one integer.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_values import half_to_float

__all__ = ["lookup"]

SHARED, RARE, FP16, GRID, BOOK_INT8, BOOK_FP16 = range(6)
_POWERS = np.array([1, 3, 9, 27, 81], np.int64)
_BITS = np.array([8, 6, 4, 3, 2, 0, 1], np.int64)  # of the grids, in the order of rectab.ops.grids; 0 is ternary
_OFFSETS = np.array([128, 32, 8, 4, 1.5, 1, 0.5], np.float32)


@njit(inline="always")
def _half(payload, at):
    return half_to_float(np.int16(np.uint16(payload[at]) | np.uint16(payload[at + 1]) << np.uint16(8)))


@njit(inline="always")
def _window(payload, at, bits, last):
    """The code of up to 12 bits that begins at bit ``at``; ``last`` is the last byte there is."""
    byte = at >> 3
    word = np.uint32(payload[byte]) | np.uint32(payload[min(byte + 1, last)]) << np.uint32(8)
    if bits > 9:
        word |= np.uint32(payload[min(byte + 2, last)]) << np.uint32(16)
    return np.int64(word >> np.uint32(at & 7)) & ((1 << bits) - 1)


@compiled
def _halves(payload, begin, out):
    for j in range(out.size):
        out[j] = _half(payload, begin + 2 * j)


@compiled
def _integers(payload, begin, scale, out):
    for j in range(out.size):
        out[j] = np.float32(np.int8(payload[begin + j])) * scale


@compiled
def _bytes_on_grid(payload, begin, steps, out):
    for j in range(out.size):
        out[j] = (np.float32(payload[begin + j]) - np.float32(128)) * steps[j]


@compiled
def _nibbles_on_grid(payload, begin, steps, out):
    for j in range(out.size // 2):
        two = np.int32(payload[begin + j])
        out[2 * j] = np.float32((two & 15) - 8) * steps[2 * j]
        out[2 * j + 1] = np.float32((two >> 4) - 8) * steps[2 * j + 1]


@compiled
def _bits_on_grid(payload, begin, row, bits, offset, steps, last, out):
    at = begin * 8 + row * out.size * bits
    for j in range(out.size):
        out[j] = (np.float32(_window(payload, at, bits, last)) - offset) * steps[j]
        at += bits


@compiled
def _trits_on_grid(payload, begin, row, steps, out):
    place = row * out.size
    for j in range(out.size):
        digit = (np.int64(payload[begin + place // 5]) * _POWERS[place % 5] & 255) * 3 >> 8
        out[j] = np.float32(digit - 1) * steps[j]
        place += 1


@compiled
def _on_grid(payload, begin, code, row, rows, known, steps, out):
    """``steps`` fp32 [D] of the block are filled where ``known`` is 0; those of single rows every time."""
    grid, per, width, last = code >> 4 & 7, code >> 7 & 3, out.size, payload.size - 1
    if per == 2:
        step = _half(payload, begin + 2 * row)
        for j in range(width):
            steps[j] = step
        begin += 2 * rows
    else:
        if not known:
            if per == 1:
                _halves(payload, begin, steps)
            else:
                step = _half(payload, begin)
                for j in range(width):
                    steps[j] = step
        begin += 2 * width if per == 1 else 2
    bits = _BITS[grid]
    if bits == 8:
        _bytes_on_grid(payload, begin + row * width, steps, out)
    elif bits == 4 and width % 2 == 0:
        _nibbles_on_grid(payload, begin + row * width // 2, steps, out)
    elif bits == 0:
        _trits_on_grid(payload, begin, row, steps, out)
    else:
        _bits_on_grid(payload, begin, row, bits, _OFFSETS[grid], steps, last, out)


@compiled
def _from_books(payload, begin, code, row, out):
    width, last = out.size, payload.size - 1
    bits, sub_dim = code >> 4 & 15, code >> 8 & 127
    sub_dim = sub_dim if sub_dim > 0 else width
    halves = code & 15 == BOOK_FP16
    parts, count = (width + sub_dim - 1) // sub_dim, 1 << bits
    scale = np.float32(1) if halves else _half(payload, begin)
    entries = begin if halves else begin + 2
    at = (entries + count * width * (2 if halves else 1)) * 8 + row * parts * bits
    for first in range(0, width, sub_dim):
        part = min(sub_dim, width - first)
        entry = count * first + _window(payload, at, bits, last) * part
        if halves:
            _halves(payload, entries + 2 * entry, out[first : first + part])
        else:
            _integers(payload, entries + entry, scale, out[first : first + part])
        at += bits


@compiled
def _lookup(start, end, ids, columns, ranges, blocks, codes, payload, firsts, out, outside):
    width, period = out.shape[1], columns.size
    num_blocks, total = blocks.shape[0], ranges[-1, 0] + ranges[-1, 1]
    steps, known = np.empty((num_blocks, width), np.float32), np.zeros(num_blocks, np.uint8)
    at = start % period
    for i in range(start, end):
        column = columns[at]
        at = at + 1 if at + 1 < period else 0
        if ids[i] < 0 or ids[i] >= ranges[column, 1]:
            outside[1] = ids[i]
            outside[0] = 1
            return
        row, block = ids[i] + ranges[column, 0], firsts[column]
        while block + 1 < num_blocks and blocks[block + 1, 0] <= row:
            block += 1
        code = np.int64(codes[block])
        if code & 15 == RARE:
            row, block = np.int64(ranges[column, 0]), firsts[column]
            code = np.int64(codes[block])
        kind, begin, first = code & 15, np.int64(blocks[block, 1]), np.int64(blocks[block, 0])
        if kind == GRID:
            rows = (blocks[block + 1, 0] if block + 1 < num_blocks else total) - first
            _on_grid(payload, begin, code, row - first, rows, known[block], steps[block], out[i])
            known[block] = 1
        elif kind in (BOOK_INT8, BOOK_FP16):
            _from_books(payload, begin, code, row - first, out[i])
        elif kind == SHARED:
            _integers(payload, begin + 2, _half(payload, begin), out[i])
        else:
            _halves(payload, begin + 2 * (row - first) * width, out[i])


@compiled
def _first_blocks(ranges, blocks):
    """The first block of every vocabulary."""
    firsts, block = np.empty(ranges.shape[0], np.int64), 0
    for v in range(ranges.shape[0]):
        while blocks[block, 0] < ranges[v, 0]:
            block += 1
        firsts[v] = block
    return firsts


@parallel
def lookup(threads, ids, columns, ranges, blocks, codes, payload, out, outside):
    """Vectors of ids.

    Args:
        ids: int64 [n].
        columns: int64 [m], m divides n: index of the vocabulary of ids ``i``, ``i + m``, ...
        ranges: int [V, 2]: first row and number of rows of every vocabulary.
        blocks: int [blocks, 2]: first row, and where the payload begins.
        codes: int16 [blocks].
        payload: uint8.
        out: fp32 [n, D]: filled.
        outside: int64 [2]: becomes (1, id) if an id is not in its vocabulary; ``out`` is then undefined.
    """
    firsts = _first_blocks(ranges, blocks)
    for thread in prange(threads):
        start, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
        _lookup(start, end, ids, columns, ranges, blocks, codes, payload, firsts, out, outside)

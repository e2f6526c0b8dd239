"""Where the rows of a block lie in its packed bytes, and reading them: what the kernels of packed tables share.

A block's code says its encoding (:mod:`rectab.tables.quantized.codes`). Functions that read take a ``source``: (address
of the payload, last offset that may be read from there, address of a copy of its end less the offset at which that
begins). So lanes may be loaded whole wherever they begin, and nobody has to ask whether they reach beyond the payload.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit

from rectab.jit import compiled
from rectab.ops.grids import GRIDS
from rectab.ops.numba_bits import byte, lanes_of_halves, lanes_of_integers, put_lanes, put_word
from rectab.ops.numba_vectors import LANES

__all__ = [
    "BITS",
    "BOOK_FP16",
    "BOOK_INT8",
    "FLOAT",
    "FP16",
    "GRID",
    "LAID_OUT",
    "RARE",
    "SHARED",
    "SLACK",
    "at",
    "block_bytes",
    "end_of",
    "inlined",
    "lay_out_trits",
    "parts_of",
    "put_halves",
    "put_integers",
    "row_bits",
    "rows_begin",
    "source_of",
    "stride_of",
]

SHARED, RARE, FP16, GRID, BOOK_INT8, BOOK_FP16 = range(6)

SLACK = 32
"""Bytes that may be read from any address that :func:`at` gives."""

BITS = np.array([grid.bits for grid in GRIDS.values()], np.int64)  # 0 is ternary
LAID_OUT = 32  # rows whose bytes are laid out before the first becomes floats
AHEAD = 8  # vectors whose place is asked for before they are written
FLOAT = 4

inlined = njit(forceinline=True, error_model="numpy")  # a call with arrays costs as much as decoding


def _trits() -> np.ndarray:
    """uint64 [256]: the five digits of a byte less 1, as bytes."""
    left, digits = np.arange(256), np.zeros((256, 8), np.int8)
    for place in range(5):
        left = 3 * left
        digits[:, place] = (left >> 8) - 1
        left &= 255
    return digits.view(np.uint64)[:, 0].copy()


_TRITS = _trits()


@inlined
def stride_of(width):
    """Bytes that a row is laid out in: halves, and what is written beyond the last."""
    return 2 * width + 2 * LANES


@inlined
def at(source, offset):
    """Address of the byte at ``offset`` of the payload, or of its copy near the end."""
    payload, limit, copied = source
    return (payload if offset <= limit else copied) + offset


@compiled
def end_of(payload):
    """uint8: a copy of the last bytes of uint8 [n], behind which others may be read."""
    copied, first = np.zeros(2 * SLACK, np.uint8), max(payload.size - SLACK, 0)
    for k in range(first, payload.size):
        copied[k - first] = payload[k]
    return copied


@inlined
def source_of(payload, copied):
    """The source of an array of bytes; ``copied`` is its :func:`end_of`. Both must outlive it."""
    return payload.ctypes.data, payload.size - SLACK, copied.ctypes.data - max(payload.size - SLACK, 0)


@inlined
def lay_out_trits(source, start, digit, width, target):
    """Digits from the one at place ``digit`` of the byte at ``start`` on, less 1, as bytes: the first of them lies
    ``digit`` bytes behind ``target``. Up to seven more bytes are overwritten."""
    for k in range((digit + width + 4) // 5):
        put_word(target + 5 * k, _TRITS[byte(at(source, start + k))])


@inlined
def parts_of(code, width):
    """(dimensions of a part, bits of a code) of codebooks."""
    sub_dim = code >> 8 & 127
    return sub_dim if sub_dim > 0 else width, code >> 4 & 15


@inlined
def rows_begin(code, begin, rows, width):
    """Where the bytes of a block's rows begin: behind its steps or codebooks."""
    kind = code & 15
    if kind == GRID:
        per = code >> 7 & 3
        return begin + (2 * rows if per == 2 else 2 * width if per == 1 else 2)
    if kind in (BOOK_INT8, BOOK_FP16):
        size = width << (code >> 4 & 15)
        return begin + (2 + size if kind == BOOK_INT8 else 2 * size)
    return begin


@inlined
def row_bits(code, width):
    """Bits of a row. Of ternary digits, which lie five to a byte: about as many."""
    kind = code & 15
    if kind == GRID:
        bits = BITS[code >> 4 & 7]
        return bits * width if bits else 8 * width // 5
    if kind in (BOOK_INT8, BOOK_FP16):
        sub_dim, bits = parts_of(code, width)
        return bits * ((width + sub_dim - 1) // sub_dim)
    return 16 * width if kind == FP16 else np.int64(0)


@inlined
def block_bytes(code, rows, width):
    """Bytes of a block's payload."""
    kind = code & 15
    if kind == SHARED:
        return np.int64(2 + width)
    if kind == GRID and BITS[code >> 4 & 7] == 0:
        return rows_begin(code, np.int64(0), rows, width) + (rows * width + 4) // 5
    return rows_begin(code, np.int64(0), rows, width) + (rows * row_bits(code, width) + 7) // 8


@inlined
def put_halves(source, start, out, width):
    for j in range(0, width, LANES):
        put_lanes(out + FLOAT * j, width - j, lanes_of_halves(at(source, start + 2 * j)))


@inlined
def put_integers(source, start, scale, out, width):
    for j in range(0, width, LANES):
        put_lanes(out + FLOAT * j, width - j, lanes_of_integers(at(source, start + j)) * scale)

"""Rows of codebooks: codes of a row choose entries, and these are laid out side by side before they become floats."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.ops.numba_bits import copy_8, half, lanes_of_halves, lanes_of_integers, long_word, put_lanes, word
from rectab.ops.numba_payload import AHEAD, FLOAT, LAID_OUT, at, inlined, parts_of, put_halves, put_integers, stride_of
from rectab.ops.numba_values import prefetch_address
from rectab.ops.numba_vectors import LANES

__all__ = ["decode_books"]


@inlined
def _code(source, bit, bits):
    """The code of up to 12 bits that begins at a bit of the payload."""
    return (word(at(source, bit >> 3)) >> (bit & 7)) & ((1 << bits) - 1)


@inlined
def _copy(source, start, target, size):
    """Bytes of the payload, in whole words: what is behind ``target + size`` may be overwritten."""
    for k in range(0, size, 8):
        copy_8(target + k, at(source, start + k))


@inlined
def _lay_out(source, books, bit, sub_dim, bits, size, width, target):
    """The entries of a row, part after part; as many codes as a word holds are read at once."""
    part, mask, ahead = sub_dim * size, (1 << bits) - 1, sub_dim * (57 // bits)
    for some in range(0, width, ahead):
        codes = long_word(at(source, bit >> 3)) >> np.uint64(bit & 7)
        for first in range(some, min(some + ahead, width), sub_dim):
            held = min(part, (width - first) * size)
            _copy(source, books + np.int64(codes & np.uint64(mask)) * held, target + first * size, held)
            codes >>= np.uint64(bits)
            books += held << bits
            bit += bits


@inlined
def _put_entries(address, size, scale, out, width):
    for j in range(0, width, LANES):
        value = lanes_of_integers(address + j) * scale if size == 1 else lanes_of_halves(address + 2 * j)
        put_lanes(out + FLOAT * j, width - j, value)


@inlined
def _whole_vectors(source, books, rows, bits, size, scale, places, count, targets, out, width):
    for k in range(count):
        prefetch_address(out + targets[min(k + AHEAD, count - 1)])
        start = books + _code(source, 8 * rows + places[k] * bits, bits) * width * size
        if size == 2:
            put_halves(source, start, out + targets[k], width)
        else:
            put_integers(source, start, scale, out + targets[k], width)


@inlined
def decode_books(source, begin, rows, code, size, places, count, targets, out, width, scratch):
    """As :func:`rectab.ops.numba_runs.decode_run`, for codebooks; ``size``: bytes of a number, 1 or 2."""
    (sub_dim, bits), stride, scale = parts_of(code, width), stride_of(width), np.float32(1)
    books = begin
    if size == 1:
        books, scale = begin + 2, half(at(source, begin))
    if sub_dim >= width:
        _whole_vectors(source, books, rows, bits, size, scale, places, count, targets, out, width)
        return
    held = bits * ((width + sub_dim - 1) // sub_dim)
    for first in range(0, count, LAID_OUT):
        last = min(first + LAID_OUT, count)
        for k in range(first, last):
            target = scratch + (k - first) * stride
            prefetch_address(out + targets[k])
            _lay_out(source, books, 8 * rows + places[k] * held, sub_dim, bits, size, width, target)
        for k in range(first, last):
            _put_entries(scratch + (k - first) * stride, size, scale, out + targets[k], width)

"""Vectors of several rows of one block of packed bytes, decoded in registers; called by :mod:`rectab.ops.numba_blocks`.

What is asked of a block is asked once a run, so the loops over rows are short. Codes that choose bytes (digits of
trits, entries of codebooks) are first laid out as bytes, a few rows at a time, and then become floats as others do.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.jit import compiled
from rectab.ops.grids import GRIDS
from rectab.ops.numba_bits import (
    half,
    lanes_of_bytes,
    lanes_of_codes,
    lanes_of_halves,
    lanes_of_integers,
    lanes_of_short_codes,
    put_lanes,
    take_lanes,
)
from rectab.ops.numba_books import decode_books
from rectab.ops.numba_payload import (
    AHEAD,
    BITS,
    BOOK_FP16,
    BOOK_INT8,
    FLOAT,
    GRID,
    LAID_OUT,
    SHARED,
    at,
    inlined,
    lay_out_trits,
    put_halves,
    stride_of,
)
from rectab.ops.numba_values import prefetch_address
from rectab.ops.numba_vectors import LANES, splat

__all__ = ["decode_run", "scratch_bytes"]

_OFFSETS = np.array([grid.offset for grid in GRIDS.values()], np.float32)


@inlined
def scratch_bytes(width):
    """For :func:`decode_run`: the bytes of some rows, and the steps of every dimension in whole blocks of lanes."""
    return LAID_OUT * stride_of(width) + FLOAT * (width + LANES)


@inlined
def _shared(source, begin, count, targets, out, width):
    for j in range(0, width, LANES):
        value = lanes_of_integers(at(source, begin + 2 + j)) * half(at(source, begin))
        for k in range(count):
            put_lanes(out + targets[k] + FLOAT * j, width - j, value)


@inlined
def _halves(source, begin, places, count, targets, out, width):
    for k in range(count):
        prefetch_address(out + targets[min(k + AHEAD, count - 1)])
        put_halves(source, begin + 2 * places[k] * width, out + targets[k], width)


@inlined
def _put_grid(source, start, shift, bits, offset, steps, per_row, step, out, width):
    """``shift``: the bit of the byte at ``start`` that the row begins with."""
    for j in range(0, width, LANES):
        if bits == 8:
            codes = lanes_of_bytes(at(source, start + j))
        else:
            bit = shift + j * bits
            address = at(source, start + (bit >> 3))
            if (bit & 7) + 8 * bits <= 32:
                codes = lanes_of_short_codes(address, bit & 7, bits)
            else:
                codes = lanes_of_codes(address, bit & 7, bits)
        value = (codes - offset) * (splat(step) if per_row else take_lanes(steps + FLOAT * j))
        put_lanes(out + FLOAT * j, width - j, value)


@inlined
def _fill_steps(source, begin, per_dimension, steps, width):
    for j in range(0, width, LANES):
        value = lanes_of_halves(at(source, begin + 2 * j)) if per_dimension else splat(half(at(source, begin)))
        put_lanes(steps + FLOAT * j, np.int64(LANES), value)


@inlined
def _grid(source, begin, rows, code, places, count, targets, out, width, scratch):
    grid, per = code >> 4 & 7, code >> 7 & 3
    bits, offset, steps = BITS[grid], _OFFSETS[grid], scratch + LAID_OUT * stride_of(width)
    if per != 2:
        _fill_steps(source, begin, per == 1, steps, width)
    if bits == 0:
        _trits_run(source, begin, rows, per == 2, steps, places, count, targets, out, width, scratch)
        return
    step = np.float32(0)
    for k in range(count):
        if per == 2:
            step = half(at(source, begin + 2 * places[k]))
        bit = places[k] * width * bits
        prefetch_address(out + targets[min(k + AHEAD, count - 1)])
        _put_grid(source, rows + (bit >> 3), bit & 7, bits, offset, steps, per == 2, step, out + targets[k], width)


@inlined
def _trits_run(source, begin, rows, per_row, steps, places, count, targets, out, width, scratch):
    stride, step = stride_of(width), np.float32(0)
    for first in range(0, count, LAID_OUT):
        last = min(first + LAID_OUT, count)
        for k in range(first, last):
            digit = places[k] * width
            prefetch_address(out + targets[k])
            lay_out_trits(source, rows + digit // 5, digit % 5, width, scratch + (k - first) * stride)
        for k in range(first, last):
            if per_row:
                step = half(at(source, begin + 2 * places[k]))
            start = scratch + (k - first) * stride + places[k] * width % 5
            for j in range(0, width, LANES):
                value = lanes_of_integers(start + j) * (splat(step) if per_row else take_lanes(steps + FLOAT * j))
                put_lanes(out + targets[k] + FLOAT * j, width - j, value)


@inlined
def _decode(source, begin, rows, code, places, count, targets, out, width, scratch):
    kind = code & 15
    if kind == GRID:
        _grid(source, begin, rows, code, places, count, targets, out, width, scratch)
    elif kind == BOOK_INT8:
        decode_books(source, begin, rows, code, 1, places, count, targets, out, width, scratch)
    elif kind == BOOK_FP16:
        decode_books(source, begin, rows, code, 2, places, count, targets, out, width, scratch)
    elif kind == SHARED:
        _shared(source, begin, count, targets, out, width)
    else:
        _halves(source, begin, places, count, targets, out, width)


@compiled
def decode_run(source, begin, rows, code, places, count, targets, out, width, scratch):
    """Decode rows of one block.

    Args:
        source: see :mod:`rectab.ops.numba_payload`.
        begin: where the block's payload begins.
        rows: where its rows begin, see :func:`~rectab.ops.numba_payload.rows_begin`.
        code: of its encoding.
        places: int64 [count]: rows within the block.
        targets: int64 [count]: bytes from ``out`` to where each vector goes, fp32 of ``width``.
        out: an address.
        width: D.
        scratch: address of :func:`scratch_bytes`.
    """
    if width == LANES:  # whole registers, known when compiled
        _decode(source, begin, rows, code, places, count, targets, out, LANES, scratch)
    else:
        _decode(source, begin, rows, code, places, count, targets, out, width, scratch)

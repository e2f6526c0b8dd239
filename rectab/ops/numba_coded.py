"""Numba kernels that read rows of few bits, decoded in registers. Called through :mod:`rectab.ops.kernels_numba`.

Blocks of 16 codes are loaded whole. Those of an array's last rows would reach beyond its end, so these rows are left to
a second pass, one code after another; a branch within the first would cost it half its speed.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_decoding import bytes_read, bytes_to_lanes, codes_to_lanes
from rectab.ops.numba_lanes import store_lanes
from rectab.ops.numba_values import load, prefetch_element
from rectab.ops.numba_vectors import LANES

__all__ = ["gather_bits", "gather_bytes", "gather_trits"]

_AHEAD = 32  # rows asked for before they are needed
_U8 = np.uint64(8)


@compiled
def _code(codes, row, column, bits):
    """One code of a stream."""
    word, start = np.uint64(0), column * bits
    for k in range(start // 8, min(start // 8 + 2, codes.shape[1])):
        word |= np.uint64(codes[row, k]) << (np.uint64(k - start // 8) * _U8)
    return np.int64((word >> np.uint64(start % 8)) & np.uint64((1 << bits) - 1))


@compiled
def _whole_rows(codes, reach):
    """uint64: how many rows, from the first on, have ``reach`` bytes of the array from their start."""
    return np.uint64(max((codes.size - reach) // codes.shape[1] + 1, 0))


@compiled
def _is_outside(row, num_rows, outside):
    if 0 <= row < num_rows:
        return False
    outside[1] = row
    outside[0] = 1
    return True


@compiled
def _gather_bytes(thread, threads, codes, scale, rows, out, outside):
    num_rows, width = codes.shape
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    whole = _whole_rows(codes, (width + LANES - 1) // LANES * LANES)
    last = False
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch_element(codes, rows[i + _AHEAD] * width)
            prefetch_element(scale, rows[i + _AHEAD])
        row = rows[i]
        if np.uint64(row) >= whole:  # or negative
            last = True
            continue
        step = load(scale, row, 0)
        for j in range(0, width, LANES):
            store_lanes(out, i, j, bytes_to_lanes(codes, row * width + j) * step)
    for i in range(begin, end if last else begin):
        if _is_outside(rows[i], num_rows, outside):
            return
        if np.uint64(rows[i]) >= whole:
            for j in range(width):
                out[i, j] = np.float32(codes[rows[i], j]) * load(scale, rows[i], 0)


@parallel
def gather_bytes(threads, codes, scale, rows, out, outside):
    """int8 [N, D] times fp16 [N, 1] -> fp32 [n, D]."""
    for thread in prange(threads):
        _gather_bytes(thread, threads, codes, scale, rows, out, outside)


@compiled
def _gather_bits(thread, threads, codes, scale, bits, offset, rows, out, outside):
    (num_rows, width), row_dim = codes.shape, out.shape[1]
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    reach = (row_dim - 1) // LANES * 2 * bits + bytes_read(bits)
    whole = _whole_rows(codes, reach)
    last = False
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch_element(codes, rows[i + _AHEAD] * width)
            prefetch_element(scale, rows[i + _AHEAD])
        row = rows[i]
        if np.uint64(row) >= whole:  # or negative
            last = True
            continue
        step, start = load(scale, row, 0), row * width
        for j in range(0, row_dim, LANES):
            store_lanes(out, i, j, (codes_to_lanes(codes, start, bits) - offset) * step)
            start += 2 * bits
    for i in range(begin, end if last else begin):
        if _is_outside(rows[i], num_rows, outside):
            return
        if np.uint64(rows[i]) >= whole:
            for j in range(row_dim):
                out[i, j] = (np.float32(_code(codes, rows[i], j, bits)) - offset) * load(scale, rows[i], 0)


@parallel
def gather_bits(threads, codes, scale, bits, offset, rows, out, outside):
    """Streams uint8 [N, packed_bytes(D, bits)] of codes less ``offset``, times fp16 [N, 1] -> fp32 [n, D]."""
    for thread in prange(threads):
        _gather_bits(thread, threads, codes, scale, bits, offset, rows, out, outside)


@compiled
def _gather_trits(thread, threads, codes, scale, rows, out, outside):
    (num_rows, width), row_dim = codes.shape, out.shape[1]
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch_element(codes, rows[i + _AHEAD] * width)
            prefetch_element(scale, rows[i + _AHEAD])
        row = rows[i]
        if _is_outside(row, num_rows, outside):
            return
        step = load(scale, row, 0)
        for at in range(width):
            left = np.int32(codes[row, at])
            for j in range(5 * at, min(5 * at + 5, row_dim)):
                left *= np.int32(3)
                out[i, j] = np.float32((left >> np.int32(8)) - np.int32(1)) * step
                left &= np.int32(255)


@parallel
def gather_trits(threads, codes, scale, rows, out, outside):
    """Ternary digits uint8 [N, trit_bytes(D)] less 1, times fp16 [N, 1] -> fp32 [n, D]."""
    for thread in prange(threads):
        _gather_trits(thread, threads, codes, scale, rows, out, outside)

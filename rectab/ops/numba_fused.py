"""Numba kernel that reads rows with a scale and a bias each. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_bits import half, lanes_of_bytes, lanes_of_short_codes, put_lanes, single
from rectab.ops.numba_payload import FLOAT, at, end_of, inlined, source_of
from rectab.ops.numba_values import prefetch_element
from rectab.ops.numba_vectors import LANES, multiply_add, splat

__all__ = ["gather_fused"]

_AHEAD = 32  # rows asked for before they are needed


@inlined
def _row(source, start, behind, bits, out, width):
    """One row, whose codes begin at the byte ``start`` and end before the byte ``behind``."""
    numbers = at(source, behind)
    if bits == 8:
        scale, bias = splat(single(numbers)), splat(single(numbers + 4))
    else:
        scale, bias = splat(half(numbers)), splat(half(numbers + 2))
    for j in range(0, width, LANES):
        if bits == 8:
            value = lanes_of_bytes(at(source, start + j))
        else:
            value = lanes_of_short_codes(at(source, start + (j * bits >> 3)), np.int64(0), bits)
        put_lanes(out + FLOAT * j, width - j, multiply_add(value, scale, bias))


@compiled
def _gather(begin, end, fused, bits, copied, rows, out, outside):
    source, (num_rows, row_bytes), width = source_of(fused, copied), fused.shape, out.shape[1]
    code_bytes, vectors = row_bytes - (8 if bits == 8 else 4), out.ctypes.data
    for i in range(np.uint64(begin), np.uint64(end)):
        if i + np.uint64(_AHEAD) < np.uint64(end):
            prefetch_element(fused, rows[i + np.uint64(_AHEAD)] * row_bytes)
        row = rows[i]
        if np.uint64(row) >= np.uint64(num_rows):  # or negative
            outside[1] = row
            outside[0] = 1
            return
        start, to = row * row_bytes, vectors + FLOAT * width * np.int64(i)
        if width == LANES:  # whole registers, known when compiled
            _row(source, start, start + code_bytes, bits, to, LANES)
        else:
            _row(source, start, start + code_bytes, bits, to, width)


@parallel
def gather_fused(threads, fused, bits, rows, out, outside):
    """Rows of codes from 0 on, times a scale and with a bias added -> fp32 [n, D].

    Args:
        fused: uint8 [N, bytes of a row], see :mod:`rectab.ops.fused`.
        bits: of a code: 8, 4 or 2.
        rows: int64 [n].
        out: filled.
        outside: int64 [2]: becomes (1, row) for one outside; ``out`` is then undefined.
    """
    copied = end_of(fused.reshape(fused.size))
    for thread in prange(threads):
        begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
        _gather(begin, end, fused, bits, copied, rows, out, outside)

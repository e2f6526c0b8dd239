"""Numba kernel that reads rows of few bits, decoded in registers. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_bits import (
    half,
    lanes_of_bytes,
    lanes_of_codes,
    lanes_of_integers,
    lanes_of_short_codes,
    put_lanes,
)
from rectab.ops.numba_payload import FLOAT, at, end_of, inlined, lay_out_trits, source_of
from rectab.ops.numba_values import prefetch_element
from rectab.ops.numba_vectors import LANES

__all__ = ["gather_coded"]

_AHEAD = 32  # rows asked for before they are needed
_TRITS, _SHORT, _LONG, _SIGNED, _BYTES = range(5)


@inlined
def _row(kind, source, start, bits, offset, step, scratch, out, width):
    """One row, whose codes begin at the byte ``start``."""
    if kind == _TRITS:
        lay_out_trits(source, start, 0, width, scratch)
    for j in range(0, width, LANES):
        if kind == _TRITS:
            value = lanes_of_integers(scratch + j)
        elif kind == _SIGNED:
            value = lanes_of_integers(at(source, start + j))
        elif kind == _BYTES:
            value = lanes_of_bytes(at(source, start + j)) - offset
        elif kind == _SHORT:
            value = lanes_of_short_codes(at(source, start + (j * bits >> 3)), np.int64(0), bits) - offset
        else:
            value = lanes_of_codes(at(source, start + (j * bits >> 3)), np.int64(0), bits) - offset
        put_lanes(out + FLOAT * j, width - j, value * step)


@inlined
def _rows(kind, begin, end, codes, scale, bits, offset, source, rows, out, width):
    """Returns the first position whose row is outside, or ``end``."""
    (num_rows, row_bytes), scratch = codes.shape, np.empty(_AHEAD * (2 * width + LANES), np.uint8)
    scales, vectors = scale.ctypes.data, out.ctypes.data
    own = np.int64(scale.shape[0] > 1)
    for i in range(np.uint64(begin), np.uint64(end)):
        if i + np.uint64(_AHEAD) < np.uint64(end):
            ahead = rows[i + np.uint64(_AHEAD)]
            prefetch_element(codes, ahead * row_bytes)
            prefetch_element(scale, ahead * own)
        row = rows[i]
        if np.uint64(row) >= np.uint64(num_rows):  # or negative
            return np.int64(i)
        step = half(scales + 2 * row * own)
        to = vectors + FLOAT * width * np.int64(i)
        laid = scratch.ctypes.data + np.int64(i) % _AHEAD * (2 * width + LANES)
        _row(kind, source, row * row_bytes, bits, offset, step, laid, to, width)
    return end


@inlined
def _of_kind(begin, end, codes, scale, bits, offset, source, rows, out, width):
    if bits == 0:
        return _rows(_TRITS, begin, end, codes, scale, bits, offset, source, rows, out, width)
    if bits == 8 and offset == 0:
        return _rows(_SIGNED, begin, end, codes, scale, bits, offset, source, rows, out, width)
    if bits == 8:
        return _rows(_BYTES, begin, end, codes, scale, bits, offset, source, rows, out, width)
    if bits <= 4:
        return _rows(_SHORT, begin, end, codes, scale, bits, offset, source, rows, out, width)
    return _rows(_LONG, begin, end, codes, scale, bits, offset, source, rows, out, width)


@compiled
def _gather(begin, end, codes, scale, bits, offset, copied, rows, out, outside):
    source, width = source_of(codes, copied), out.shape[1]
    if width == LANES:  # whole registers, known when compiled
        known = _of_kind(begin, end, codes, scale, bits, offset, source, rows, out, LANES)
    else:
        known = _of_kind(begin, end, codes, scale, bits, offset, source, rows, out, width)
    if known < end:
        outside[1] = rows[known]
        outside[0] = 1


@parallel
def gather_coded(threads, codes, scale, bits, offset, rows, out, outside):
    """Rows of codes less ``offset``, times a scale -> fp32 [n, D].

    Args:
        codes: uint8 [N, bytes of a row]: streams of ``bits`` bits a code; ternary digits less 1 for 0 bits; with an
            offset of 0, 8 bits are signed bytes.
        scale: int16 [N, 1], halves; [1, 1] for all rows.
        rows: int64 [n].
        out: filled.
        outside: int64 [2]: becomes (1, row) for one outside; ``out`` is then undefined.
    """
    copied = end_of(codes.reshape(codes.size))
    for thread in prange(threads):
        begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
        _gather(begin, end, codes, scale, bits, offset, copied, rows, out, outside)

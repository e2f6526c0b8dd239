"""Numba kernel that reads rows of several widths. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_values import copy_bytes, prefetch_address

__all__ = ["gather_ragged"]

_AHEAD = 16  # rows asked for before they are needed
_FLOAT = 4


@compiled
def _gather_ragged(thread, threads, group, position, kept, groups, out, outside):
    begin, end = thread * group.size // threads, (thread + 1) * group.size // threads
    (starts, widths, limits), dim = groups, out.shape[1]
    for i in range(begin, end):
        if i + _AHEAD < end and kept[i + _AHEAD]:
            g = group[i + _AHEAD]
            prefetch_address(starts[g] + position[i + _AHEAD] * widths[g] * _FLOAT)
        width = 0
        if kept[i]:
            g = group[i]
            if position[i] < 0 or position[i] >= limits[g]:
                outside[1] = position[i]
                outside[0] = 1
                return
            width = widths[g]
            size = width * _FLOAT
            copy_bytes(starts[g] + position[i] * size, out.ctypes.data + i * dim * _FLOAT, size)
        for j in range(width, dim):
            out[i, j] = 0.0


@parallel
def gather_ragged(threads, group, position, kept, groups, out, outside):
    """Fill ``out`` float32 [n, D].

    Args:
        group, position: int64 [n]; of a row, and its place in the group.
        kept: bool [n]; false gives zeros.
        groups: int64 [G] each: the address of every group's first row, floats of its rows (the others of a vector are
            zero), and how many it has.
        outside: set to (1, the place) where one is outside of its group.
    """
    for thread in prange(threads):
        _gather_ragged(thread, threads, group, position, kept, groups, out, outside)

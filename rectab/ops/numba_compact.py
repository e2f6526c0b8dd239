"""Numba kernel that reads rows of several widths. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_lanes import expand_lanes, store_lanes
from rectab.ops.numba_values import prefetch_address
from rectab.ops.numba_vectors import LANES, splat

__all__ = ["gather_ragged"]

_AHEAD = 16  # rows asked for before they are needed
_FLOAT = 4


@compiled
def _gather_ragged(thread, threads, group, position, kept, groups, out, outside):
    begin, end = thread * group.size // threads, (thread + 1) * group.size // threads
    (starts, widths, limits, columns, counts), dim = groups, out.shape[1]
    for i in range(begin, end):
        if i + _AHEAD < end and kept[i + _AHEAD]:
            g = group[i + _AHEAD]
            prefetch_address(starts[g] + position[i + _AHEAD] * widths[g] * _FLOAT)
        if not kept[i]:
            for j in range(0, dim, LANES):
                store_lanes(out, i, j, splat(np.float32(0.0)))
            continue
        g = group[i]
        if position[i] < 0 or position[i] >= limits[g]:
            outside[1] = position[i]
            outside[0] = 1
            return
        source = starts[g] + position[i] * widths[g] * _FLOAT
        for block in range(columns.shape[1]):
            store_lanes(out, i, block * LANES, expand_lanes(source, columns[g, block]))
            source += counts[g, block] * _FLOAT


@parallel
def gather_ragged(threads, group, position, kept, groups, out, outside):
    """Fill ``out`` float32 [n, D].

    Args:
        group, position: int64 [n]; of a row, and its place in the group.
        kept: bool [n]; false gives zeros.
        groups: int64 [G] each: the address of every group's first row, floats of its rows, and how many it has; uint64
            [G, blocks]: bit k of block b says whether a row has dimension 16 b + k, others are zero; and int64 of that
            shape: how many bits there are.
        outside: set to (1, the place) where one is outside of its group.
    """
    for thread in prange(threads):
        _gather_ragged(thread, threads, group, position, kept, groups, out, outside)

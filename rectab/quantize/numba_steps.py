"""Numba kernels of uniform grids: steps and codes. Called through :mod:`rectab.quantize.steps`.

A grid is (levels, offset): code c stands for ``(c - offset) * step``, see :mod:`rectab.ops.grids`.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, kernel, parallel

__all__ = ["codes", "fit_columns", "moments"]

_ROWS = 256  # rows whose moments are summed in fp32
_HALF = np.float32(0.5)


@compiled
def _inverse(step):
    return np.float32(1) / step if step > 0 else np.float32(0)


@compiled
def _level(value, inverse, levels, offset):
    """The nearest level, as ``code - offset``."""
    code = np.floor(value * inverse + (offset + _HALF))
    return min(max(code, np.float32(0)), np.float32(levels - 1)) - offset


@compiled
def _error(column, weights, step, levels, offset):
    inverse, total = _inverse(step), np.float32(0)
    for i in range(column.size):
        away = _level(column[i], inverse, levels, offset) * step - column[i]
        total += weights[i] * (away * away)
    return total


@compiled
def _refined(column, weights, step, levels, offset):
    """The step that suits the codes of ``step`` best."""
    inverse, above, below = _inverse(step), np.float32(0), np.float32(0)
    for i in range(column.size):
        level = _level(column[i], inverse, levels, offset)
        above += weights[i] * level * column[i]
        below += weights[i] * level * level
    return above / below if below > 0 else step


@kernel
def fit_columns(columns, weights, levels, offset, shares, refinements):
    """The best step of every column.

    Args:
        columns, weights: fp32 [G, m], fp32 [m].
        shares: fp32: candidates, as shares of the step at which nothing is cut off.
        refinements: of the best candidate, by alternating least squares.

    Returns:
        fp32 [G].
    """
    offset = np.float32(offset)
    reach, steps = min(offset, np.float32(levels - 1) - offset), np.zeros(columns.shape[0], np.float32)
    for g in range(columns.shape[0]):
        largest = np.float32(0)
        for value in columns[g]:
            largest = max(largest, abs(value))
        least = np.float32(np.inf)
        for share in shares:
            candidate = largest / reach * share
            error = _error(columns[g], weights, candidate, levels, offset)
            if error < least:
                least, steps[g] = error, candidate
        for _ in range(refinements):
            steps[g] = _refined(columns[g], weights, steps[g], levels, offset)
    return steps


@kernel
def moments(vectors, weights, steps, levels, offset):
    """fp64 [D] each: sums of weight * level * value and of weight * level^2; least squares gives a step from them.

    Args:
        vectors, weights: fp32 [n, D], fp32 [n].
        steps: fp32 [D].
    """
    offset, width = np.float32(offset), vectors.shape[1]
    inverse = np.empty(width, np.float32)
    for j in range(width):
        inverse[j] = _inverse(steps[j])
    above, below = np.zeros(width), np.zeros(width)
    part_above, part_below = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for start in range(0, vectors.shape[0], _ROWS):
        part_above[:], part_below[:] = 0, 0
        for i in range(start, min(start + _ROWS, vectors.shape[0])):
            for j in range(width):
                level = _level(vectors[i, j], inverse[j], levels, offset)
                part_above[j] += weights[i] * level * vectors[i, j]
                part_below[j] += weights[i] * level * level
        above += part_above
        below += part_below
    return above, below


@parallel
def codes(threads, vectors, steps, levels, offset, out):
    """Fill ``out`` uint8 [n, D]; ``steps`` is fp32 [1 or n, 1 or D]."""
    rows = vectors.shape[0]
    for thread in prange(threads):
        _codes(
            thread * rows // threads, (thread + 1) * rows // threads, vectors, steps, levels, np.float32(offset), out
        )


@compiled
def _codes(begin, end, vectors, steps, levels, offset, out):
    width = vectors.shape[1]
    by_row, by_column = np.int64(steps.shape[0] > 1), np.int64(steps.shape[1] > 1)
    inverse = np.empty(width, np.float32)
    for i in range(begin, end):
        if by_row or i == begin:
            for j in range(width):
                inverse[j] = _inverse(steps[i * by_row, j * by_column])
        for j in range(width):
            out[i, j] = np.uint8(_level(vectors[i, j], inverse[j], levels, offset) + offset)

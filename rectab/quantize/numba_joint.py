"""Codes of a vector chosen together: numba kernels called through :mod:`rectab.quantize.joint`.

A vector's cost is ``d' G d`` of its change d. Codes that are nearest part by part leave out what G says of two parts
together; from there one part after another takes the code of least cost given the others.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel

__all__ = ["centroids", "levels"]

_SWEEPS = 3
_LESS = np.float32(1e-6)  # of the cost, that a code has to save


@compiled
def _products(metric, change, out):
    for j in range(change.size):
        total = np.float32(0)
        for k in range(change.size):
            total += metric[j, k] * change[k]
        out[j] = total


@compiled
def _levels(begin, end, vectors, metric, steps, grid_levels, offset, codes):
    width = vectors.shape[1]
    by_row, by_column = np.int64(steps.shape[0] > 1), np.int64(steps.shape[1] > 1)
    change, product = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(begin, end):
        for j in range(width):
            change[j] = (codes[i, j] - offset) * steps[i * by_row, j * by_column] - vectors[i, j]
        _products(metric, change, product)
        for _ in range(_SWEEPS):
            changed = False
            for j in range(width):
                step = steps[i * by_row, j * by_column]
                if step <= 0:
                    continue
                best = (codes[i, j] - offset) - product[j] / (metric[j, j] * step)
                code = np.floor(best + offset + np.float32(0.5))
                code = min(max(code, np.float32(0)), np.float32(grid_levels - 1))
                moved = (code - np.float32(codes[i, j])) * step
                if moved * (2 * product[j] + metric[j, j] * moved) < -_LESS * metric[j, j] * step * step:
                    codes[i, j] = np.uint8(code)
                    changed = True
                    for k in range(width):
                        product[k] += metric[k, j] * moved
            if not changed:
                break


@parallel
def levels(threads, vectors, metric, steps, grid_levels, offset, codes):
    """Codes on a grid.

    Args:
        vectors: fp32 [n, D].
        metric: fp32 [D, D], positive on the diagonal.
        steps: fp32 [1 or n, 1 or D].
        codes: uint8 [n, D]: the nearest ones, improved in place.
    """
    rows = vectors.shape[0]
    for thread in prange(threads):
        begin, end = thread * rows // threads, (thread + 1) * rows // threads
        _levels(begin, end, vectors, metric, steps, grid_levels, np.float32(offset), codes)


@compiled
def _own_costs(entries, firsts, metric):
    """``c' G c`` of every centroid of every part, fp32 [parts, K]."""
    parts, count = firsts.size - 1, entries.shape[1]
    out = np.zeros((parts, count), np.float32)
    for p in range(parts):
        for a in range(firsts[p], firsts[p + 1]):
            for b in range(firsts[p], firsts[p + 1]):
                for k in range(count):
                    out[p, k] += metric[a, b] * entries[a, k] * entries[b, k]
    return out


@compiled
def _centroids(begin, end, vectors, metric, entries, firsts, own, codes):
    width, count, parts = vectors.shape[1], entries.shape[1], firsts.size - 1
    change, product = np.empty(width, np.float32), np.empty(width, np.float32)
    cost = np.empty(count, np.float32)
    for i in range(begin, end):
        for p in range(parts):
            for j in range(firsts[p], firsts[p + 1]):
                change[j] = entries[j, codes[i, p]] - vectors[i, j]
        _products(metric, change, product)
        for _ in range(_SWEEPS):
            changed = False
            for p in range(parts):
                first, last, old = firsts[p], firsts[p + 1], codes[i, p]
                for k in range(count):
                    cost[k] = own[p, k]
                for a in range(first, last):
                    twice = product[a]
                    for b in range(first, last):
                        twice -= metric[a, b] * entries[b, old]
                    twice *= 2
                    for k in range(count):
                        cost[k] += twice * entries[a, k]
                least, code = cost[old], old
                for k in range(count):
                    if cost[k] < least:
                        least, code = cost[k], k
                if cost[old] - least > _LESS * own[p, code]:
                    codes[i, p] = code
                    changed = True
                    for a in range(first, last):
                        moved = entries[a, code] - entries[a, old]
                        for k in range(width):
                            product[k] += metric[k, a] * moved
            if not changed:
                break


@parallel
def centroids(threads, vectors, metric, entries, firsts, codes):
    """Codes of codebooks.

    Args:
        vectors: fp32 [n, D], near 0.
        metric: fp32 [D, D].
        entries: fp32 [D, K]: dimension by dimension, of the part that the dimension lies in.
        firsts: int64 [parts + 1]: where parts begin, and D.
        codes: uint16 [n, parts]: the nearest ones, improved in place.
    """
    rows, own = vectors.shape[0], _own_costs(entries, firsts, metric)
    for thread in prange(threads):
        begin, end = thread * rows // threads, (thread + 1) * rows // threads
        _centroids(begin, end, vectors, metric, entries, firsts, own, codes)

"""The nearest of many centroids: numba kernels called through :mod:`rectab.quantize.kmeans`.

Vectors are compared in tiles of columns, so that every step over a tile is one loop over contiguous numbers: [s, TILE].
Centroids come in fours, which halves what is read and written of the best so far. Vectors are taken relative to a
centre: distances of vectors that lie close together, far from 0, would be lost in fp32.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel

__all__ = ["TILE", "assign", "nearest", "prepare", "scratch"]

TILE = 256
_FAR = np.float32(3e38)


@compiled
def _products(tile, width, centroid, norm, out):
    """``out[t] = norm - centroid . tile[:, t]``, four dimensions at a time."""
    c0, c1, c2, c3 = centroid[0], np.float32(0), np.float32(0), np.float32(0)
    if width == 1:
        for t in range(TILE):
            out[t] = norm - c0 * tile[0, t]
        return
    c1 = centroid[1]
    if width == 2:
        for t in range(TILE):
            out[t] = norm - c0 * tile[0, t] - c1 * tile[1, t]
        return
    c2 = centroid[2]
    if width == 3:
        for t in range(TILE):
            out[t] = norm - c0 * tile[0, t] - c1 * tile[1, t] - c2 * tile[2, t]
        return
    c3 = centroid[3]
    for t in range(TILE):
        out[t] = norm - (c0 * tile[0, t] + c1 * tile[1, t]) - (c2 * tile[2, t] + c3 * tile[3, t])
    j = 4
    while j + 4 <= width:
        c0, c1, c2, c3 = centroid[j], centroid[j + 1], centroid[j + 2], centroid[j + 3]
        for t in range(TILE):
            out[t] -= (c0 * tile[j, t] + c1 * tile[j + 1, t]) + (c2 * tile[j + 2, t] + c3 * tile[j + 3, t])
        j += 4
    while j < width:
        c0 = centroid[j]
        for t in range(TILE):
            out[t] -= c0 * tile[j, t]
        j += 1


@compiled
def _keep_least(four, first, best, codes):
    """Merge the products of centroids ``first .. first + 3`` into the least so far; ties go to the lower number."""
    k0, k1, k2, k3 = np.int32(first), np.int32(first + 1), np.int32(first + 2), np.int32(first + 3)
    for t in range(TILE):
        a, b, c, d = four[0, t], four[1, t], four[2, t], four[3, t]
        left, left_code = (b, k1) if b < a else (a, k0)
        right, right_code = (d, k3) if d < c else (c, k2)
        least, code = (right, right_code) if right < left else (left, left_code)
        old = best[t]
        codes[t] = code if least < old else codes[t]
        best[t] = least if least < old else old


@compiled
def nearest(tile, width, centroids, norms, four, best, codes):
    """Fill ``codes`` int32 [TILE] for a tile fp32 [width, TILE]; centroids come in fours, the last of norm _FAR."""
    for t in range(TILE):
        best[t], codes[t] = _FAR, np.int32(0)
    for first in range(0, centroids.shape[0], 4):
        for k in range(4):
            _products(tile, width, centroids[first + k], norms[first + k], four[k])
        _keep_least(four, first, best, codes)


@compiled
def prepare(centroids, centre):
    """(centroids relative to the centre, padded to fours; half their squared lengths)."""
    count, width = centroids.shape
    padded = np.zeros(((count + 3) // 4 * 4, width), np.float32)
    norms = np.full(padded.shape[0], _FAR)
    for k in range(count):
        length = np.float32(0)
        for j in range(width):
            padded[k, j] = centroids[k, j] - centre[j]
            length += padded[k, j] * padded[k, j]
        norms[k] = np.float32(0.5) * length
    return padded, norms


@compiled
def scratch(width):
    return (
        np.zeros((width, TILE), np.float32),
        np.empty((4, TILE), np.float32),
        np.empty(TILE, np.float32),
        np.empty(TILE, np.int32),
    )


@compiled
def _assign(begin, end, vectors, centroids, norms, codes):
    width = centroids.shape[1]
    tile, four, best, found = scratch(width)
    for start in range(begin * TILE, min(end * TILE, vectors.shape[0]), TILE):
        count = min(TILE, vectors.shape[0] - start)
        for t in range(count):
            for j in range(width):
                tile[j, t] = vectors[start + t, j]
        nearest(tile, width, centroids, norms, four, best, found)
        for t in range(count):
            codes[start + t] = found[t]


@parallel
def assign(threads, vectors, centroids, codes):
    """The nearest centroid of every vector.

    Args:
        vectors: fp32 [n, width], near 0.
        centroids: fp32 [K, width].
        codes: uint16 [n]: filled.
    """
    padded, norms = prepare(centroids, np.zeros(centroids.shape[1], np.float32))
    tiles = (vectors.shape[0] + TILE - 1) // TILE
    for thread in prange(threads):
        begin, end = thread * tiles // threads, (thread + 1) * tiles // threads
        _assign(begin, end, vectors, padded, norms, codes)

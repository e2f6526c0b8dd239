"""Codes of a vector chosen together, so that what they change cancels where the output reads it.

Rounding part by part is best only if the metric (:mod:`rectab.quantize.metric`) says nothing of two parts together. The
idea is that of GPTQ (Frantar et al. 2023) for rows of a weight matrix, by coordinate descent: a vector has few parts.
"""

from __future__ import annotations

import numpy as np

from rectab.ops.grids import Grid
from rectab.ops.numba_support import launch, thread_count
from rectab.quantize import numba_joint as kernels
from rectab.quantize.metric import Metric

__all__ = ["improve_centroids", "improve_levels"]


def improve_levels(grid: Grid, vectors: np.ndarray, steps: np.ndarray, metric: Metric, codes: np.ndarray) -> None:
    """Lower the cost of codes uint8 [n, D] on a grid, in place; no vector's cost rises.

    Args:
        vectors: fp32 [n, D].
        steps: fp32 [1 or n, 1 or D].
    """
    if not metric.is_diagonal:
        threads = thread_count(vectors.size * vectors.shape[1])
        launch(kernels.levels, threads, vectors, metric.scaled, steps, grid.levels, grid.offset, codes)


def improve_centroids(vectors: np.ndarray, books: list[np.ndarray], metric: Metric, codes: np.ndarray) -> None:
    """Lower the cost of codes uint16 [n, parts] of books fp32 [K, width], in place; no vector's cost rises."""
    if metric.is_diagonal or len(books) == 1:
        return
    entries = np.concatenate([book.T for book in books])
    centre = entries.mean(1)
    firsts = np.cumsum([0, *(book.shape[1] for book in books)])
    threads = thread_count(vectors.shape[0] * entries.size)
    relative = np.ascontiguousarray(entries - centre[:, None])
    launch(kernels.centroids, threads, vectors - centre, metric.scaled, relative, firsts, codes)

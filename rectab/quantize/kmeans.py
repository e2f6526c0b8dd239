"""Weighted k-means of the parts of vectors: the best found on a small sample, then Lloyd's iterations on larger ones.

Samples are drawn by weight: centroids need only its density. The first one has few rows for each centroid, so that
k-means++ (Arthur and Vassilvitskii 2007) and the moving of centroids cost little; the later ones take its noise out of
the means. Parts of one dimension start from the exact optimum of the first sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rectab.ops.numba_support import launch, thread_count
from rectab.quantize import numba_kmeans as kernels
from rectab.quantize.metric import Metric
from rectab.quantize.numba_intervals import best_intervals
from rectab.quantize.numba_nearest import TILE, assign
from rectab.quantize.sampling import draw_rows, weighted_mean

__all__ = ["QUICK", "THOROUGH", "Effort", "fit_codebooks", "nearest_centroids"]

_SAMPLE, _SAMPLE_OF_A_CODE = 256, 16  # rows of the first sample: at least, and for each centroid
_GROWTH, _SAMPLES = 8, 3  # how much larger the next sample is, and how many there are at most
_PATIENCE = 6  # relocations that may fail in a row
_WORK, _WORK_OF_A_ROW = 1 << 20, 24  # products that all relocations may take, and what a row takes beside its products


@dataclass(frozen=True)
class Effort:
    """How hard a fit tries.

    Attributes:
        iterations, later: Lloyd's iterations on the first sample, and on the others, at most.
        progress: the share of the error below which another iteration is not worth it.
        starts, trials: starts, and relocations of a centroid.
    """

    iterations: int
    later: int
    progress: float
    starts: int
    trials: int


THOROUGH = Effort(iterations=25, later=4, progress=2e-3, starts=2, trials=32)
QUICK = Effort(iterations=6, later=2, progress=1e-2, starts=1, trials=0)
"""To compare encodings: errors are 1 to 3 % higher, in a third of the time."""


def fit_codebooks(
    vectors: np.ndarray, weights: np.ndarray, sub_dim: int, num_codes: int, seed: int, metric: Metric, effort: Effort
) -> list[np.ndarray]:
    """Centroids of every part of ``sub_dim`` dimensions, the last part narrower if need be.

    Args:
        vectors, weights: fp32 [n, D], fp32 [n], some weight above 0.
        sub_dim: at most D.
        num_codes: K, of each part. Where fewer are needed the others are the vectors' mean.
        seed: of the samples and starts.
        metric: in which distances are measured; only its blocks on the diagonal count.
        effort: how hard it tries.

    Returns:
        fp32 [K, width] for every part.
    """
    random = np.random.default_rng(seed)
    samples = [_columns(vectors, weights, rows, random) for rows in _sample_sizes(len(vectors), num_codes)]
    books = []
    for first in range(0, vectors.shape[1], sub_dim):
        part = slice(first, min(first + sub_dim, vectors.shape[1]))
        into, back = metric.part(part.start, part.stop)
        columns, mass, centre = samples[0]
        centroids = _train(into.T @ columns[part], mass, num_codes, random, effort)
        for columns, mass, other in samples[1:]:
            moved = (centre - other)[part].astype(np.float32) @ into
            centroids += moved
            kernels.descend(into.T @ columns[part], mass, centroids, effort.later, effort.progress)
            centroids -= moved
        books.append((centroids @ back + centre[part]).astype(np.float32))
    return books


def _sample_sizes(num_ids: int, num_codes: int) -> list[int]:
    sizes = [max(_SAMPLE, _SAMPLE_OF_A_CODE * num_codes)]
    while sizes[-1] < num_ids:
        sizes.append(sizes[-1] * _GROWTH)
    return sizes[:_SAMPLES]


def nearest_centroids(vectors: np.ndarray, books: list[np.ndarray], metric: Metric) -> np.ndarray:
    """Codes uint16 [n, parts] of vectors fp32 [n, D] by books fp32 [K, width], each nearest in the metric."""
    found, first = np.empty((len(vectors), len(books)), np.uint16), 0
    for index, book in enumerate(books):
        part = slice(first, first + book.shape[1])
        into, _ = metric.part(part.start, part.stop)
        codes = np.empty(len(vectors), np.uint16)
        centre = book.mean(0)
        threads = thread_count(len(vectors) * book.size)
        launch(assign, threads, (vectors[:, part] - centre) @ into, (book - centre) @ into, codes)
        found[:, index] = codes
        first = part.stop
    return found


def _columns(
    vectors: np.ndarray, weights: np.ndarray, most: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows drawn by weight (all, if there are no more than ``most``) as the kernels take them.

    Returns:
        fp32 [D, m] relative to their weighted mean, weights fp32 [m], the mean fp64 [D]; m a multiple of a tile.
    """
    taken, mass = draw_rows(vectors, weights, most, random)
    centre = weighted_mean(taken, mass)
    padded = -(-len(taken) // TILE) * TILE
    columns, weights = np.zeros((vectors.shape[1], padded), np.float32), np.zeros(padded, np.float32)
    columns[:, : len(taken)] = (taken - centre.astype(np.float32)).T
    weights[: len(taken)] = mass
    return columns, weights, centre


def _train(
    columns: np.ndarray, weights: np.ndarray, num_codes: int, random: np.random.Generator, effort: Effort
) -> np.ndarray:
    """fp32 [s, m], fp32 [m] -> fp32 [K, s]."""
    if len(columns) == 1:
        return _best_intervals(columns[0], weights, num_codes)
    work = (num_codes + _WORK_OF_A_ROW) * columns.shape[1]
    trials = min(effort.trials, _WORK // (4 * work))
    best, least = np.empty((0, len(columns)), np.float32), np.inf
    for _ in range(effort.starts if trials == effort.trials else 1):
        centroids = np.zeros((num_codes, len(columns)), np.float32)
        uniform = random.random(num_codes + trials)
        error = kernels.train(
            columns, weights, centroids, uniform, effort.iterations, effort.progress, trials, _PATIENCE
        )
        if error < least:
            best, least = centroids, error
    return best


def _best_intervals(numbers: np.ndarray, weights: np.ndarray, num_codes: int) -> np.ndarray:
    order, centroids = np.argsort(numbers, kind="stable"), np.empty(num_codes, np.float32)
    best_intervals(numbers[order], weights[order], centroids)
    return centroids[:, None]

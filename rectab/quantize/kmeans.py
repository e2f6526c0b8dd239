"""Weighted k-means: the centroids of a codebook."""

from __future__ import annotations

import numpy as np

__all__ = ["kmeans", "nearest_centroids"]

_ITERATIONS = 15


def kmeans(vectors: np.ndarray, weights: np.ndarray, num_codes: int, seed: int) -> np.ndarray:
    """fp32 [n, s], fp32 [n] -> centroids fp32 [num_codes, s]; those that no vector needs are 0."""
    random = np.random.default_rng(seed)
    centroids = np.zeros((num_codes, vectors.shape[1]), np.float32)
    distinct = np.unique(vectors, axis=0)
    if len(distinct) <= num_codes:
        centroids[: len(distinct)] = distinct
        return centroids
    mass = np.maximum(weights.astype(np.float64), 1e-12)
    centroids[0] = vectors[random.choice(len(vectors), p=mass / mass.sum())]
    distance = ((vectors - centroids[0]) ** 2).sum(1)
    for k in range(1, num_codes):
        odds = distance * mass
        centroids[k] = vectors[random.choice(len(vectors), p=odds / odds.sum())]
        distance = np.minimum(distance, ((vectors - centroids[k]) ** 2).sum(1))
    for _ in range(_ITERATIONS):
        codes = nearest_centroids(vectors, centroids)
        counts = np.bincount(codes, mass, num_codes)
        for j in range(vectors.shape[1]):
            total = np.bincount(codes, mass * vectors[:, j], num_codes)
            centroids[:, j] = np.where(counts > 0, total / np.maximum(counts, 1e-30), centroids[:, j])
    return centroids


def nearest_centroids(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """fp32 [n, s], fp32 [K, s] -> int64 [n]."""
    lengths = (centroids**2).sum(1)
    codes = np.empty(len(vectors), np.int64)
    for first in range(0, len(vectors), 8192):
        part = slice(first, first + 8192)
        codes[part] = (lengths - 2 * vectors[part] @ centroids.T).argmin(1)
    return codes

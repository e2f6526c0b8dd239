"""Rows drawn by weight, so that what is fitted to a block costs the same however large the block is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["draw_rows", "pieces_of", "weighted_mean"]

_PIECE = 40960  # a multiple of 8 and of 5: the codes of a piece end at whole bytes, whatever their bits


def pieces_of(num_rows: int) -> Iterator[slice]:
    """``0 .. num_rows`` in pieces, so that what is computed from a large block stays small."""
    return (slice(first, min(first + _PIECE, num_rows)) for first in range(0, num_rows, _PIECE))


def weighted_mean(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """fp32 [n, D], fp32 [n] with some weight above 0 -> fp64 [D]."""
    total = np.zeros(vectors.shape[1])
    for piece in pieces_of(len(vectors)):
        total += weights[piece].astype(np.float64) @ vectors[piece].astype(np.float64)
    return total / weights.sum(dtype=np.float64)


def draw_rows(
    vectors: np.ndarray, weights: np.ndarray, most: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All rows, or at most ``most`` of them drawn by weight.

    Draws are evenly spaced in the cumulative weights, so a row whose weight is a share p of all is drawn p * most
    times, rounded up or down.

    Args:
        vectors, weights: fp32 [n, D], fp32 [n], some weight above 0.

    Returns:
        fp32 [m, D], and fp32 [m] with mean 1: weights, or how often each row was drawn.
    """
    if len(vectors) > most:
        cumulative = np.cumsum(weights, dtype=np.float64)
        places = (np.arange(most) + random.random()) * (cumulative[-1] / most)
        drawn = np.searchsorted(cumulative, places, "right").clip(max=len(vectors) - 1)
        rows, weights = np.unique(drawn, return_counts=True)
        vectors = vectors[rows]
    return vectors, (weights / weights.mean(dtype=np.float64)).astype(np.float32)

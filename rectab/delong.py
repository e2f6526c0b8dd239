"""How sure an AUC is, of the rows it was measured on: DeLong's covariance of several AUCs on the same rows.

An interval over seeds says how much training's chance moves an AUC; this says how much other rows of the same kind
would. DeLong, DeLong and Clarke-Pearson, Biometrics 1988, by the midranks of Sun and Xu, IEEE Signal Processing Letters
2014: O(n log n) for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FEWEST_ROWS", "Z_95", "Aucs", "aucs_on_rows"]

FEWEST_ROWS = 2  # of either class: one alone has no variance
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Aucs:
    """AUCs of several models on the same rows.

    Attributes:
        values: float64 [k].
        covariance: float64 [k, k], over samples of rows.
    """

    values: np.ndarray
    covariance: np.ndarray

    def half_width(self, weights: Sequence[float] | np.ndarray) -> float:
        """Of the 95 % interval for a weighted sum of the AUCs (``[1, -1]``: a paired difference)."""
        w = np.asarray(weights, np.float64)
        return float(Z_95 * np.sqrt(max(w @ self.covariance @ w, 0.0)))


def aucs_on_rows(labels: np.ndarray, scores: Sequence[np.ndarray]) -> Aucs:
    """AUCs of ``scores`` (k arrays [n]) for ``labels`` [n], and how they would vary together with the rows.

    Raises:
        ValueError: no scores, other lengths than the labels', numbers that are not finite, or a class with fewer than
            two rows.
    """
    labels = np.asarray(labels)
    positive = labels > 0
    m, n = int(positive.sum()), int((~positive).sum())
    if not scores:
        raise ValueError("no scores: give at least one array")
    if min(m, n) < FEWEST_ROWS:
        raise ValueError(f"an interval for AUC needs two rows of either class, got {m} positive and {n} negative")
    of_positives, of_negatives, values = [], [], []
    for given in scores:
        score = np.asarray(given, np.float64)
        if score.shape != labels.shape or not np.isfinite(score).all():
            raise ValueError(f"scores must be finite and as many as labels {labels.shape}, got {score.shape}")
        above, below = score[positive], score[~positive]
        all_ranks = _midranks(np.concatenate([above, below]))
        of_positives.append((all_ranks[:m] - _midranks(above)) / n)  # share of negatives below each positive
        of_negatives.append(1.0 - (all_ranks[m:] - _midranks(below)) / m)
        values.append(of_positives[-1].mean())
    covariance = np.atleast_2d(np.cov(of_positives)) / m + np.atleast_2d(np.cov(of_negatives)) / n
    return Aucs(np.array(values), covariance)


def _midranks(values: np.ndarray) -> np.ndarray:
    """float64 [n]: ranks from 1, ties at the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle = ends - (counts - 1) / 2
    return middle[inverse]

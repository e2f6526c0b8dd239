"""The vector that values outside a vocabulary read: that of id 0, or of rare ids where no training row read id 0."""

from __future__ import annotations

import numpy as np

from rectab.quantize.sampling import weighted_mean

__all__ = ["rare_vector"]

_SHARE = 0.1  # of a vocabulary's ids, the least frequent ones
_FEWEST = 16


def rare_vector(vectors: np.ndarray, counts: np.ndarray, traffic: np.ndarray) -> np.ndarray:
    """fp32 [D]: the vector of id 0 if it was trained, else the mean of the ids seen least often, weighted by traffic.

    A vocabulary that keeps every training value never reads id 0 in training: its vector is what it started with. What
    a new value is most like are values that are nearly new: the rarest tenth of the ids, at least 16, with all that
    were seen as seldom as the most frequent of them.

    Args:
        vectors: fp32 [n, D].
        counts: int64 [n], training lookups.
        traffic: float64 [n], expected lookups, above 0.
    """
    if counts[0] > 0 or len(counts) == 1:
        return vectors[0]
    known = counts[1:]
    number = min(len(known), max(_FEWEST, int(_SHARE * len(known))))
    limit = np.partition(known, number - 1)[number - 1]
    weights = np.where(counts <= limit, traffic, 0.0).astype(np.float32)
    weights[0] = 0
    return weighted_mean(vectors, weights).astype(np.float32)

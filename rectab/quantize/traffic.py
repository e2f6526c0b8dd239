"""How often ids will be looked up, from how often they were: what is rare in training is rarer afterwards."""

from __future__ import annotations

import numpy as np

__all__ = ["expected_lookups"]


def expected_lookups(counts: np.ndarray, unseen_id: int | None = None) -> np.ndarray:
    """Lookups that as many new rows would make, by modified Kneser-Ney discounting (Chen and Goodman 1999, eq. 17).

    An id seen once in training is often not seen again: on Criteo, 22,376 ids of one column that were seen once are
    looked up a sixth as often in validation, and ids never seen are 40 % of that column's lookups. Each id seen 1, 2 or
    at least 3 times loses a discount that follows from how many ids were seen 1, 2, 3 and 4 times.

    Args:
        counts: int64 [n], training lookups of every id.
        unseen_id: the id that stands for values never seen; it gets what the others lose. None if there is none.

    Returns:
        float64 [n], at least a small positive number, so that an id that was never seen still counts for a little.
    """
    expected = counts.astype(np.float64)
    once, twice, thrice, four = (max(int((counts == c).sum()), 1) for c in (1, 2, 3, 4))
    share = once / (once + 2 * twice)
    discounts = [1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice]
    for floor, discount in zip((1, 2, 3), discounts, strict=True):
        where = counts == floor if floor < 3 else counts >= floor
        expected[where] -= min(max(discount, 0.0), floor - _LEAST)
    if unseen_id is not None:
        expected[unseen_id] += counts.sum() - expected.sum()
    return np.maximum(expected, _LEAST)


_LEAST = 0.05  # expected lookups of an id that was never seen

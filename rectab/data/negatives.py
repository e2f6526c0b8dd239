"""Seeded negatives: items of the catalogue that the row's group has in no split."""

from __future__ import annotations

import numpy as np

from rectab.data.errors import DataError

__all__ = ["draw_negatives"]


def draw_negatives(group: np.ndarray, item: np.ndarray, rows: np.ndarray, ratio: int, seed: int) -> np.ndarray:
    """Draw uniformly from the catalogue, again for every draw that hits an item the group has.

    Args:
        group: int [n], group codes of all rows, every split.
        item: int [n], item codes of all rows; the catalogue is the codes that occur.
        rows: int64 [m], the positives to draw for.
        ratio: negatives per positive.
        seed: of the draw.

    Returns:
        int64 [m, ratio]: item codes.

    Raises:
        DataError: if a group has every item.
    """
    catalogue = np.unique(item)
    position = np.searchsorted(catalogue, item).astype(np.int64)
    size = len(catalogue)
    owned = np.unique(group.astype(np.int64) * size + position)
    full = np.bincount(owned // size) >= size
    if full[group[rows]].any():
        raise DataError(
            "negative sampling: a group has every item of the catalogue, so no negative can be drawn for it"
        )
    generator = np.random.default_rng(seed)
    asked = np.repeat(group[rows].astype(np.int64), ratio)
    drawn = np.empty(len(asked), np.int64)
    open_draws = np.arange(len(asked))
    while len(open_draws):
        drawn[open_draws] = generator.integers(0, size, len(open_draws))
        key = asked[open_draws] * size + drawn[open_draws]
        place = np.minimum(np.searchsorted(owned, key), len(owned) - 1)
        open_draws = open_draws[owned[place] == key]
    return catalogue[drawn].reshape(len(rows), ratio)

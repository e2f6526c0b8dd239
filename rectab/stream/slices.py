"""What had been seen of an id when it was asked for: often, long ago, only just, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectab.metrics import auc, logloss
from rectab.stream.source import Universe

__all__ = ["SLICES", "Seen", "measure"]

SLICES = ("often", "returning", "new", "never")
"""Seen ``often`` times and lately; seen, but not within the last ``away`` periods; first seen in the period that was
trained last; not seen. Other rows are in none."""


@dataclass
class Seen:
    """What training has seen of every id of a stream.

    Attributes:
        counts, first, last: by feature, int64: times, and the first and the last period; -1 for none.
    """

    universe: Universe
    counts: list[np.ndarray]
    first: list[np.ndarray]
    last: list[np.ndarray]

    @classmethod
    def nothing(cls, universe: Universe) -> Seen:
        sizes = universe.sizes
        never = [[np.full(size, -1, np.int64) for size in sizes] for _ in range(2)]
        return cls(universe, [np.zeros(size, np.int64) for size in sizes], *never)

    def places(self, raw: np.ndarray, feature: int) -> np.ndarray:
        """int64 [n]: of raw ids of a feature among the universe's."""
        return np.searchsorted(self.universe.ids[feature], raw[:, feature])

    def count(self, raw: np.ndarray) -> list[np.ndarray]:
        """By feature, how often every id occurs in raw ids int64 [n, F]."""
        sizes = self.universe.sizes
        return [np.bincount(self.places(raw, f), minlength=size) for f, size in enumerate(sizes)]

    def add(self, raw: np.ndarray, number: int) -> None:
        """These rows were trained on, in period ``number``."""
        for feature, times in enumerate(self.count(raw)):
            there = times > 0
            self.counts[feature] += times
            self.first[feature][there & (self.first[feature] < 0)] = number
            self.last[feature][there] = number

    def slices(self, raw: np.ndarray, feature: int, trained: int, often: int, away: int) -> dict[str, np.ndarray]:
        """bool [n] by slice: raw ids of rows that come after period ``trained``."""
        places = self.places(raw, feature)
        counts, first, last = (held[feature][places] for held in (self.counts, self.first, self.last))
        returning = (counts > 0) & (last <= trained - away)
        new = (counts > 0) & (first == trained)
        return {
            "often": (counts >= often) & ~returning & ~new,
            "returning": returning,
            "new": new,
            "never": counts == 0,
        }


def measure(
    labels: np.ndarray,
    logits: np.ndarray,
    seen: Seen,
    raw: np.ndarray,
    features: Sequence[int],
    trained: int,
    often: int,
    away: int,
) -> dict[str, dict[str, float | int | None]]:
    """Rows, AUC and logloss of every slice, by ``feature index:slice``; None where there are not both classes."""
    told: dict[str, dict[str, float | int | None]] = {}
    for feature in features:
        for name, rows in seen.slices(raw, feature, trained, often, away).items():
            both = len(np.unique(labels[rows])) == 2
            told[f"{feature}:{name}"] = {
                "rows": int(rows.sum()),
                "auc": auc(labels[rows], logits[rows]) if both else None,
                "logloss": logloss(labels[rows], logits[rows]) if both else None,
            }
    return told

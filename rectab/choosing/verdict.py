"""Who won and how sure that is: paired differences with intervals over seeds and over rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rectab.delong import Aucs, aucs_on_rows
from rectab.sweep.statistics import DECIDING_SEEDS, Estimate, estimate

__all__ = ["Compared", "Finalist", "compare", "level", "winner_of"]

_SAME_BYTES = 0.03  # sizes that differ by less are no reason to take one


@dataclass(frozen=True)
class Finalist:
    """A table that was trained with every seed of the final.

    Attributes:
        key: of the candidate.
        serving_bytes: of its table, counted.
        scores: by seed, float32 [n]: logits of the same rows.
    """

    key: str
    serving_bytes: int
    scores: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """A mean AUC, or a paired difference of two.

    Attributes:
        over_seeds: mean and 95 % t interval over seeds.
        over_rows: half-width of DeLong's 95 % interval for the same mean, over rows.
    """

    over_seeds: Estimate
    over_rows: float

    @property
    def mean(self) -> float:
        return self.over_seeds.mean

    @property
    def half_width(self) -> float:
        """Of both together: chance of training and chance of rows are independent. Fewer than three seeds say next to
        nothing of the former, and only the rows count."""
        seeds = self.over_seeds.half_width if self.over_seeds.n >= DECIDING_SEEDS else None
        return math.hypot(seeds or 0.0, self.over_rows)

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.mean) > self.half_width

    def to_json(self) -> dict[str, float | int | None]:
        return {
            "mean": self.mean,
            "half_width": self.half_width,
            "over_seeds": self.over_seeds.half_width,
            "over_rows": self.over_rows,
            "seeds": self.over_seeds.n,
        }


def level(labels: np.ndarray, one: Finalist) -> Compared:
    """Mean AUC of a finalist over its seeds."""
    aucs = aucs_on_rows(labels, list(one.scores.values()))
    return _compared(aucs, np.full((len(one.scores), 1), 1.0))


def compare(labels: np.ndarray, one: Finalist, other: Finalist) -> Compared:
    """Mean AUC of ``one`` less that of ``other``, paired by seed and by row.

    Raises:
        ValueError: they have no seed in common.
    """
    common = [seed for seed in one.scores if seed in other.scores]
    if not common:
        raise ValueError(f"{one.key} and {other.key} have no seed in common")
    scores = [finalist.scores[seed] for seed in common for finalist in (one, other)]
    return _compared(aucs_on_rows(labels, scores), np.tile([1.0, -1.0], (len(common), 1)))


def _compared(aucs: Aucs, weights: np.ndarray) -> Compared:
    """Of AUCs seed by seed, each seed's weighted by a row of ``weights``."""
    values = (aucs.values.reshape(weights.shape) * weights).sum(1)
    over_seeds = estimate(values.tolist())
    assert over_seeds is not None
    return Compared(over_seeds, aucs.half_width(weights.ravel() / len(weights)))


def winner_of(labels: np.ndarray, ranked: Sequence[Finalist]) -> tuple[Finalist, list[str]]:
    """The finalist to take, and the keys of those that cannot be told from the best one.

    The best mean AUC wins; among those whose interval against it includes zero, the one that takes fewest bytes to
    serve, if it takes clearly fewer.

    Args:
        labels: of the rows that chose: validation.
        ranked: the best first.
    """
    best, level_with = ranked[0], []
    chosen = best
    for other in ranked[1:]:
        if not compare(labels, best, other).decided:
            level_with.append(other.key)
            if other.serving_bytes < (1 - _SAME_BYTES) * chosen.serving_bytes:
                chosen = other
    return chosen, level_with

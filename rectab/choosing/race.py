"""Successive halving over seeds: every round trains who is left with one more seed, and the better half stays.

Pure: what trains is a function that is handed in, so that the rules are tested without a training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Race", "run_race"]

Measure = Callable[[str, int], float | None]


@dataclass
class Race:
    """Where a race stands.

    Attributes:
        auc: by candidate and seed, on validation.
        rounds: candidates of every round that was run, in their order at its start.
        left: who is left, the best first.
        ended: why it ended: ``seeds`` or ``time``.
    """

    auc: dict[str, dict[int, float]] = field(default_factory=dict)
    rounds: list[list[str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ended: str = "seeds"

    def mean(self, name: str) -> float:
        """Over the seeds that the candidate ran."""
        return math.fsum(self.auc[name].values()) / len(self.auc[name])

    def difference(self, name: str, other: str) -> float:
        """Mean over the seeds that both ran, paired."""
        common = self.auc[name].keys() & self.auc[other].keys()
        return math.fsum(self.auc[name][seed] - self.auc[other][seed] for seed in common) / max(len(common), 1)


def run_race(
    names: Sequence[str],
    measure: Measure,
    seeds: int,
    cost: Callable[[str, int], float],
    left_seconds: Callable[[], float],
) -> Race:
    """Run it.

    Args:
        names: candidates, the most promising first. The first one that can be trained is, whatever time is left.
        measure: trains a candidate with a seed; None if it cannot be trained.
        seeds: most rounds.
        cost: seconds that the training of a candidate with a seed is expected to take; 0 if it is there already.
        left_seconds: until the time is up.

    Returns:
        The race; ``left`` is empty if no candidate could be trained.
    """
    race = Race(left=list(names))
    for seed in range(seeds):
        begun, race.left = race.left, []
        race.rounds.append(begun)
        for position, name in enumerate(begun):
            must = not race.left and seed == 0
            if not must and cost(name, seed) > left_seconds():
                race.ended = "time"
                if seed == 0:
                    continue  # a cheaper one may fit
                race.left += begun[position:]  # keeps its place, without this seed
                break
            auc = measure(name, seed)
            if auc is not None:
                race.auc.setdefault(name, {})[seed] = auc
                race.left.append(name)
        race.left = _ranked(race, race.left)
        if race.ended == "time" or not race.left:
            break
        if seed < seeds - 1:
            race.left = race.left[: max(2, math.ceil(len(race.left) / 2))]
    return race


def _ranked(race: Race, names: Sequence[str]) -> list[str]:
    """The best first, each against the first one over the seeds that both ran."""
    if not names:
        return []
    reference = max(names, key=lambda name: (len(race.auc[name]), race.mean(name)))
    return sorted(names, key=lambda name: -race.difference(name, reference))

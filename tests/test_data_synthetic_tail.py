"""The generated data in which the tail matters: what is rare there, and what forgetting it costs at least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rectab.data.recipe import load_recipe
from rectab.data.synthetic import World
from rectab.quantize.predict import expected_auc

RARE = 10  # training impressions, fewer of which an id is rare
ROWS = 200_000


class Forgetful(World):
    """Rare ids contribute the mean of all rare ids of their column, weighted by training impressions."""

    counts: dict[str, np.ndarray]

    def of_id(self, name: str, ids: np.ndarray, purpose: int) -> np.ndarray:
        counts, values = self.counts[name], super().of_id(name, ids, purpose)
        rare = np.flatnonzero(counts < RARE)
        if not counts[rare].sum():
            return values
        mean = np.average(super().of_id(name, rare, purpose), weights=counts[rare])
        return np.where(counts[ids] < RARE, mean, values)


@pytest.mark.slow
def test_forgetting_rare_ids_costs_the_best_possible_model_a_hundredth_of_auc() -> None:
    options = load_recipe(Path(__file__).parents[1] / "datasets" / "synthetic_tail.toml").synthetic
    assert options is not None
    world, forgetful = World(options), Forgetful(options)
    trained = int(options.rows * (1 - options.valid - options.test))
    counts = {name: np.zeros(size, np.int64) for name, size in world.sizes.items()}
    for first in range(0, trained, 500_000):
        ids, _ = world.ids(np.arange(first, min(first + 500_000, trained)))
        for name, values in ids.items():
            counts[name] += np.bincount(values, minlength=len(counts[name]))
    used = np.concatenate([held[held > 0] for held in counts.values()])
    assert 0.95e6 < len(used) < 1.05e6
    assert np.median(used) == 5

    forgetful.counts = counts
    tested = np.linspace(trained + int(options.rows * options.valid), options.rows - 1, ROWS).astype(np.int64)
    ids, time = world.ids(tested)
    logits = world.logit(ids, time, [])
    probabilities = 1 / (1 + np.exp(-logits))
    best, without = (expected_auc(probabilities, held) for held in (logits, forgetful.logit(ids, time, [])))
    assert best - without >= 0.01

"""Shaver: values are those of the game, what is cut is read as the mean, and a budget is kept."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import counted, tiny_dataset

from rectab.schema import Vocabulary
from rectab.tables import TableOptions, plan
from rectab.training import TrainConfig, train_once


def table_of(budget: str | None = None, dim: int = 2, **options: Any) -> Any:
    counts = np.array([0, 5, 1, 1, 1])
    vocabularies = [Vocabulary("a", 5, counts=counts), Vocabulary("b", 40)]
    return plan("shaver", vocabularies, dim, budget, options=TableOptions(init_std=1.0), **options).build()


class Runner:
    """A loss that depends on which blocks are there in a way that is no sum."""

    def __init__(self, table: Any) -> None:
        self.table, self.model = table, SimpleNamespace(eval=lambda: None)

    def train_batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.stack([torch.randint(n, (8,), generator=generator) for n in (5, 40)], 1) for _ in range(400)]

    def loss(self, batch: Tensor) -> Tensor:
        vectors = self.table(batch, torch.arange(2)).flatten(1)
        return (vectors[:, 0] * vectors[:, 2] + vectors[:, 1] - 1).square().mean() + 0.0 * vectors[:, 3].sum()


def exact_values(runner: Runner, batches: list[Tensor]) -> Tensor:
    """The average over all orders, on the batches given."""
    table, means, values = runner.table, runner.table.means(), torch.zeros(4, dtype=torch.float64)
    orders = list(permutations(range(4)))
    for order in orders:
        gone = torch.zeros(2, 2, dtype=torch.bool)
        table._in_place_of = (gone, means)
        before = torch.stack([runner.loss(b) for b in batches]).mean()
        for block in order:
            gone.view(-1)[block] = True
            after = torch.stack([runner.loss(b) for b in batches]).mean()
            values[block] += float(after - before) / len(orders)
            before = after
    table._in_place_of = None
    return values.view(2, 2)


@torch.no_grad()
def test_values_are_those_of_the_game() -> None:
    table = table_of(permutations=400)
    runner = Runner(table)
    found, exact = table.shapley_values(runner), exact_values(runner, runner.train_batches(0)[:200])
    assert table._in_place_of is None
    assert found[1, 1] == 0.0, "a block that the loss does not read is worth nothing"
    torch.testing.assert_close(found, exact, rtol=0.2, atol=0.1 * float(exact.abs().max()))
    batches = runner.train_batches(0)[:200]
    whole = torch.stack([runner.loss(b) for b in batches]).mean()
    table._in_place_of = (torch.ones(2, 2, dtype=torch.bool), table.means())
    nothing = torch.stack([runner.loss(b) for b in batches]).mean()
    assert float(found.sum()) == pytest.approx(float(nothing - whole), rel=1e-5), "values add up to what all is worth"


@torch.no_grad()
def test_the_least_worth_goes_and_is_read_as_the_mean_of_its_vocabulary() -> None:
    table = table_of(dim=4)
    values = torch.tensor([[3.0, 2.0, 1.0, 4.0], [0.1, 5.0, 0.2, 0.3]])
    whole = table.cut(values)
    ids = torch.arange(5)
    torch.testing.assert_close(whole(ids, 0), table(ids, 0))
    small = table_of("62%", dim=4).cut(values)
    assert 1 in small.config.columns[1]
    assert 0 not in small.config.columns[1], "blocks of the least value of all"
    counts = torch.tensor([0.0, 5, 1, 1, 1]).unsqueeze(1)
    full = table_of("62%", dim=4)
    for index, weights in enumerate((counts, torch.ones(40, 1))):
        rows = full(torch.arange(len(weights)), index)
        mean = (rows * weights).sum(0) / weights.sum()
        got = small(torch.arange(len(weights)), index)
        for dim in range(4):
            kept = dim in small.config.columns[index]
            torch.testing.assert_close(got[:, dim], rows[:, dim] if kept else mean[dim].expand(len(weights)))


@torch.no_grad()
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8, 0.99])
def test_any_budget_is_kept_and_nothing_that_fits_is_left_out(share: float) -> None:
    table = table_of(f"{share:.0%}", dim=4)
    budget, values = table.config.budget_bytes, torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    cut = table.cut(values.double())
    assert cut.ledger().bytes <= budget
    assert cut.ledger().bytes > budget - 40 * 4 - 16


def test_it_trains_once_and_loses_little_at_half_the_bytes() -> None:
    torch.set_num_threads(1)
    results = {}
    for method, budget in (("full", None), ("shaver", "60%"), ("shaver", "15%")):
        results[method, budget] = train_once(
            counted(tiny_dataset(2000)),
            method=method,
            budget=budget,
            model="deepfm",
            history="mean",
            model_options={"hidden": (16,)},
            embedding_dim=8,
            train_config=TrainConfig(batch_size=250, lr=0.01, max_epochs=4, precision="fp32"),
            progress="off",
        )
    full, half, little = results.values()
    assert half.serving_bytes <= 0.6 * full.serving_bytes
    assert half.valid["auc"] > full.valid["auc"] - 0.02
    assert little.valid["auc"] < half.valid["auc"]
    assert [stage["stage"] for stage in half.stages] == ["train"]
    assert half.learned[0]["kind"] == "grid"

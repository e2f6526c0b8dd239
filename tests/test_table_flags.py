"""Every flag of a method's record says what it means: what happens with it, and that it does not happen without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import tiny_dataset

from rectab.models import ModelConfig
from rectab.schema import Vocabulary
from rectab.swap.planning import plan_swap
from rectab.tables import EmbeddingTable, TableMethod, methods, plan
from rectab.training.config import TrainConfig
from rectab.training.trainer import Trainer

METHODS = [pytest.param(m, id=m.name) for m in methods()]


def budget_of(method: TableMethod) -> str | None:
    return None if method.fills == "one" else "40%"


@pytest.mark.parametrize("method", METHODS)
def test_only_a_method_that_learns_from_validation_takes_half_of_it(method: TableMethod) -> None:
    dataset = tiny_dataset(rows=300)
    counted = [replace(v, counts=np.ones(v.num_embeddings, np.int64)) for v in dataset.schema.vocabularies]
    table = plan(method.name, counted, 4).build()
    trainer = Trainer(dataset, table, ModelConfig.from_options("lr"), TrainConfig(), progress="off")
    assert (len(trainer.valid) < len(dataset.valid)) == method.learns_from_validation


@pytest.mark.parametrize("method", METHODS)
def test_only_a_size_that_is_known_after_training_is_planned_as_a_bound(
    method: TableMethod, vocabularies: Sequence[Vocabulary]
) -> None:
    planned = plan(method.name, vocabularies, 8, budget_of(method))
    assert planned.at_most == method.size_after_training
    if not method.size_after_training:
        assert planned.serving.bytes == planned.build().serving().ledger().bytes


@pytest.mark.parametrize("method", METHODS)
def test_only_a_method_with_stages_of_its_own_needs_rectabs_trainer(method: TableMethod) -> None:
    assert (method.table.train_with is not EmbeddingTable.train_with) == method.needs_own_trainer
    model = nn.Sequential(nn.EmbeddingBag(50, 4), nn.Linear(4, 1))
    if method.needs_own_trainer:
        with pytest.raises(ValueError, match=f"{method.name} is trained in stages by rectab's own trainer"):
            plan_swap(model, method.name, "50%")
    else:
        counts = {"0": np.arange(50)} if method.needs_counts else None
        plan_swap(model, method.name, None, counts=counts, gradient="row" if method.row_gradients_only else "dense")


@pytest.mark.parametrize("method", METHODS)
def test_only_a_method_that_needs_counts_refuses_vocabularies_without(method: TableMethod) -> None:
    uncounted = [Vocabulary("a", 300), Vocabulary("b", 40)]
    if method.needs_counts:
        with pytest.raises(ValueError, match=rf"{method.name} needs training counts.*'a', 'b'"):
            plan(method.name, uncounted, 8, budget_of(method))
    else:
        ids = torch.zeros(3, dtype=torch.int64)
        assert plan(method.name, uncounted, 8, budget_of(method)).build()(ids, 1).shape == (3, 8)


@pytest.mark.parametrize("method", METHODS)
def test_only_a_method_that_needs_the_full_table_holds_it_while_it_trains(
    method: TableMethod, vocabularies: Sequence[Vocabulary]
) -> None:
    if method.fills == "one":
        return
    planned = plan(method.name, vocabularies, 8, "25%")
    full = sum(v.num_embeddings for v in vocabularies) * 8 * 4
    assert (planned.training.only("rows").bytes >= full) == method.needs_full_table

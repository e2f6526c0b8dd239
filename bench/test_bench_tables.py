"""Lookup and training step of every registered table at 10 % of the full table's bytes. Run by ``make bench``.

Lookups are of the served table; the training step is of the table that trains, which for a method trained in stages
holds the full table in the first. ``rectab report SWEEP --timing runs/bench.json`` draws the step times beside the
sweep's AUC.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from forms import served
from torch import Tensor
from workloads import Workload, describe, schema_of

from rectab.optim import RowAdam
from rectab.tables import methods, plan
from rectab.tables.base import EmbeddingTable

WORKLOAD = Workload(1_420_000, 16)
BUDGET = "10%"
FIELDS = torch.arange(WORKLOAD.num_features)


@cache
def batches() -> list[Tensor]:
    """Ids within each vocabulary. So many that they do not fit the caches."""
    return [batch - FIELDS * WORKLOAD.rows_per_feature for batch in WORKLOAD.batches(64)]


def training_table(method: Any) -> EmbeddingTable:
    schema = schema_of(WORKLOAD, counts=True)
    return plan(method.name, schema.vocabularies, WORKLOAD.row_dim, budget_of(method)).build()


def budget_of(method: Any) -> str | None:
    return None if method.fills == "one" else BUDGET


def describe_table(benchmark: Any, method: Any, **more: Any) -> None:
    describe(benchmark, WORKLOAD, method=method.name, budget=budget_of(method), **more)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_table_lookup(benchmark: Any, method: Any) -> None:
    table, turns = served(method.name, WORKLOAD), itertools.cycle(batches())
    describe_table(benchmark, method, served=table.method, serving_bytes=table.ledger().bytes, stage="served")
    with torch.no_grad():
        benchmark(lambda: table(next(turns), FIELDS))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_table_step(benchmark: Any, method: Any) -> None:
    table, turns = training_table(method), itertools.cycle(batches())
    stage = "first stage" if method.needs_own_trainer else "whole training"
    describe_table(benchmark, method, serving_bytes=table.planned_serving().bytes, stage=stage)
    optimizers: list[Any] = [RowAdam(table.row_stores(), lr=1e-3)]
    if dense := list(table.dense_parameters()):
        optimizers.append(torch.optim.Adam(dense, lr=1e-3, fused=True))
    gradient = torch.randn(WORKLOAD.batch_size, WORKLOAD.num_features, WORKLOAD.row_dim) * 0.01

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        table(next(turns), FIELDS).backward(gradient)
        for optimizer in optimizers:
            optimizer.step()

    benchmark(step)

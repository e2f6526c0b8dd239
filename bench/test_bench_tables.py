"""Lookup and training step of every registered table at 10 % of the full table's bytes. Run by ``make bench``.

``rectab report SWEEP --timing runs/bench.json`` draws the step times beside the sweep's AUC.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from workloads import Workload, describe, schema_of

from rectab.optim import RowAdam
from rectab.tables import methods, plan
from rectab.tables.base import EmbeddingTable

WORKLOAD = Workload(1_420_000, 16)
BUDGET = "10%"


def table_of(benchmark: Any, method: Any) -> tuple[EmbeddingTable, Any]:
    """The table that trains, and its batches. A staged method is timed in its first stage."""
    schema = schema_of(WORKLOAD, counts=True)
    planned = plan(method.name, schema.vocabularies, WORKLOAD.row_dim, BUDGET if method.needs_budget else None)
    table = planned.build()
    stage = "first stage" if method.staged else "whole training"
    describe(
        benchmark,
        WORKLOAD,
        method=method.name,
        budget=BUDGET if method.needs_budget else None,
        serving_bytes=planned.serving.bytes,
        stage=stage,
        gradient="row",
    )
    first = torch.arange(WORKLOAD.num_features) * (WORKLOAD.num_rows // WORKLOAD.num_features)
    return table, itertools.cycle([batch - first for batch in WORKLOAD.batches(8)])


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_table_lookup(benchmark: Any, method: Any) -> None:
    table, batches = table_of(benchmark, method)
    table.eval()
    fields = torch.arange(WORKLOAD.num_features)
    with torch.no_grad():
        benchmark(lambda: table(next(batches), fields))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_table_step(benchmark: Any, method: Any) -> None:
    table, batches = table_of(benchmark, method)
    fields = torch.arange(WORKLOAD.num_features)
    optimizers: list[Any] = [RowAdam(table.row_stores(), lr=1e-3)]
    if dense := list(table.dense_parameters()):
        optimizers.append(torch.optim.Adam(dense, lr=1e-3, fused=True))
    gradient = torch.randn(WORKLOAD.batch_size, WORKLOAD.num_features, WORKLOAD.row_dim) * 0.01

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        table(next(batches), fields).backward(gradient)
        for optimizer in optimizers:
            optimizer.step()

    benchmark(step)

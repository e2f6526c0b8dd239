"""Times of rectab's row kernels: lookup alone, and lookup + backward + update. Run by ``make bench``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from workloads import Workload, describe

from rectab.ops import RowStore, hash_rows
from rectab.optim import RowAdagrad, RowAdam, RowSGD

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": RowSGD,
    "adagrad": RowAdagrad,
    "adam": RowAdam,
    "adam-l2": lambda stores: RowAdam(stores, weight_decay=0.01),
}
SIZES = [100_000, 1_420_000, 10_000_000, 50_000_000]
LARGEST_BYTES = 4e9  # of a table; Adam holds three


@pytest.mark.parametrize("row_dim", [8, 16, 64])
@pytest.mark.parametrize("num_rows", SIZES)
def test_lookup(benchmark: Any, num_rows: int, row_dim: int) -> None:
    if num_rows * row_dim * 4 > LARGEST_BYTES:
        pytest.skip("larger than LARGEST_BYTES")
    workload = Workload(num_rows, row_dim)
    batches = itertools.cycle(workload.batches(8))
    store = RowStore(num_rows, row_dim)
    describe(benchmark, workload)
    with torch.no_grad():
        benchmark(lambda: store(next(batches)))


def test_hashed_lookup(benchmark: Any) -> None:
    workload = Workload(1_420_000, 16)
    batches = itertools.cycle(workload.batches(8))
    store = RowStore(workload.num_rows, workload.row_dim)
    salt = torch.arange(workload.num_features) * 7919
    describe(benchmark, workload)
    with torch.no_grad():
        benchmark(lambda: store(hash_rows(next(batches), salt, workload.num_rows)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_rows", SIZES)
def test_step(benchmark: Any, num_rows: int, optimizer: str) -> None:
    workload = Workload(num_rows, 16)
    batches = itertools.cycle(workload.batches(8))
    store = RowStore(num_rows, workload.row_dim)
    rows = OPTIMIZERS[optimizer]([("rows", store)])
    gradient = torch.randn(workload.batch_size, workload.num_features, workload.row_dim)
    describe(benchmark, workload)

    def step() -> None:
        store(next(batches)).backward(gradient)
        rows.step()

    benchmark(step)

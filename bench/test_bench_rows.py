"""Times of rectab's row kernels: lookup alone, and lookup + backward + update. Run by ``make bench``.

Every round has a batch of its own: a few batches in turn would find their rows in the caches, and rows that come back
under L2 would have been away for those few steps only. ``adam-l2`` starts as after thousands of steps, for the same
reason.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from workloads import Workload, age, describe

from rectab.ops import RowStore, hash_rows
from rectab.optim import RowAdagrad, RowAdam, RowSGD

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": RowSGD,
    "adagrad": RowAdagrad,
    "adam": RowAdam,
    "adam-l2": lambda stores: RowAdam(stores, weight_decay=1e-5),
}
SIZES = [100_000, 1_420_000, 10_000_000, 50_000_000]
LARGEST_BYTES = 4e9  # of a table; Adam holds three
ROUNDS, WARM_UP = 60, 4


@pytest.fixture(autouse=True)
def _free() -> None:
    """Give back the test before's table: optimizers refer to it in circles, and two of the largest do not fit."""
    gc.collect()


@lru_cache(maxsize=1)
def batches_of(num_rows: int) -> list[Tensor]:
    return Workload(num_rows, 16).batches(ROUNDS + WARM_UP)


def each_batch_once(benchmark: Any, workload: Workload, run: Callable[[Tensor], object]) -> None:
    """Time ``run``, one batch a round."""
    describe(benchmark, workload)
    left = iter(batches_of(workload.num_rows))
    benchmark.pedantic(lambda: run(next(left)), rounds=ROUNDS, warmup_rounds=WARM_UP)


@pytest.mark.parametrize("row_dim", [8, 16, 64])
@pytest.mark.parametrize("num_rows", SIZES)
def test_lookup(benchmark: Any, num_rows: int, row_dim: int) -> None:
    if num_rows * row_dim * 4 > LARGEST_BYTES:
        pytest.skip("larger than LARGEST_BYTES")
    with torch.no_grad():
        each_batch_once(benchmark, Workload(num_rows, row_dim), RowStore(num_rows, row_dim))


def test_hashed_lookup(benchmark: Any) -> None:
    workload = Workload(1_420_000, 16)
    store = RowStore(workload.num_rows, workload.row_dim)
    salt = torch.arange(workload.num_features) * 7919
    with torch.no_grad():
        each_batch_once(benchmark, workload, lambda batch: store(hash_rows(batch, salt, workload.num_rows)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_rows", SIZES)
def test_step(benchmark: Any, num_rows: int, optimizer: str) -> None:
    workload = Workload(num_rows, 16)
    store = RowStore(num_rows, workload.row_dim)
    rows = OPTIMIZERS[optimizer]([("rows", store)])
    if optimizer == "adam-l2":
        age(rows, workload)
    gradient = torch.randn(workload.batch_size, workload.num_features, workload.row_dim) * 0.01

    def step(batch: Tensor) -> None:
        store(batch).backward(gradient)
        rows.step()

    each_batch_once(benchmark, workload, step)

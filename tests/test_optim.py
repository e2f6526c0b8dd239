"""Row optimizers against torch's dense ones: touched rows only, and with a penalty that the whole table feels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectab.ops import RowStore
from rectab.ops.replay import Clock
from rectab.optim import RowAdagrad, RowAdam, RowOptimizer, RowSGD, clip_row_gradients

ROWS, DIM = 40, 5
KERNELS = ["torch", "numba"]
OPTIMIZERS: dict[str, Callable[..., RowOptimizer]] = {
    "sgd": lambda s, **o: RowSGD(s, 0.1, **o),
    "adagrad": lambda s, **o: RowAdagrad(s, 0.05, state="element", **o),
    "adagrad-row": lambda s, **o: RowAdagrad(s, 0.05, **o),
    "adam": lambda s, **o: RowAdam(s, 0.01, **o),
}
DENSE: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, **o: torch.optim.SGD(p, 0.1, **o),
    "adagrad": lambda p, **o: torch.optim.Adagrad(p, 0.05, **o),
    "adam": lambda p, **o: torch.optim.Adam(p, 0.01, **o),
}


def a_store(rows: str = "fp32") -> RowStore:
    return RowStore(ROWS, DIM, init_std=0.1, generator=torch.Generator().manual_seed(1), rows=rows)


def batches(steps: int, seed: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = [(torch.rand(4, 2, generator=generator) ** 3 * ROWS).long() for _ in range(steps)]  # few rows often
    return [(r, torch.randn(4, 2, DIM, generator=generator) * 0.3) for r in rows]


def train(store: RowStore, optimizer: Any, steps: int = 60, scheduler: Any = None) -> None:
    for rows, target in batches(steps):
        optimizer.zero_grad()
        (store(rows) - target).square().sum().mul(0.1).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", DENSE)
def test_full_decay_equals_the_dense_optimizer(name: str, kernel: str) -> None:
    store, dense = a_store(), RowStore(ROWS, DIM, gradient="dense")
    dense.load_state_dict(store.state_dict())
    row = OPTIMIZERS[name]([("t", store)], weight_decay=0.1, max_replay=None, kernel=kernel)
    reference = DENSE[name]([dense.weight], weight_decay=0.1)
    for step, (rows, target) in enumerate(batches(80)):
        read, expected = store(rows), dense(rows)
        torch.testing.assert_close(read, expected, rtol=1e-4, atol=2e-6)  # rows are up to date when they are read
        for vectors, optimizer in ((read, row), (expected, reference)):
            optimizer.zero_grad()
            (vectors - target).square().sum().mul(0.1).backward()
            optimizer.param_groups[0]["lr"] *= 0.98 if step % 3 else 1.01  # the replay knows each step's rate
            optimizer.step()
    row.catch_up()
    torch.testing.assert_close(store.weight, dense.weight, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["adagrad", "adagrad-row", "adam"])
def test_kernels_replay_in_the_same_portions(name: str) -> None:
    results = []
    for kernel in KERNELS:
        store = a_store()
        optimizer = OPTIMIZERS[name]([("t", store)], weight_decay=0.1, max_replay=4, kernel=kernel)
        train(store, optimizer, 120)
        optimizer.catch_up()
        results.append(store.weight.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_a_capped_replay_stays_close_to_the_dense_optimizer() -> None:
    weights = []
    for max_replay in (None, 32):
        store = RowStore(300, 8, generator=torch.Generator().manual_seed(1))
        optimizer = RowAdam([("t", store)], 0.001, weight_decay=0.1, max_replay=max_replay)
        generator = torch.Generator().manual_seed(3)
        targets = torch.randn(300, 8, generator=generator) * 0.2
        for _ in range(600):
            rows = (torch.rand(8, generator=generator) ** 4 * 300).long()
            (store(rows) - targets[rows]).square().sum().mul(0.05).backward()
            optimizer.step()
        optimizer.catch_up()
        weights.append(store.weight.detach())
    error = (weights[1] - weights[0]).square().mean().sqrt()
    assert error < 0.05 * weights[0].square().mean().sqrt()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["sgd", "adagrad"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lazy_equals_the_dense_optimizer_on_touched_rows(name: str, kernel: str, decay: float) -> None:
    store = a_store()
    train(store, OPTIMIZERS[name]([("t", store)], weight_decay=decay, decay="lazy", kernel=kernel))
    start = a_store().weight.detach()
    # A dense optimizer for every row, stepped only when the batch has the row.
    rows = [nn.Parameter(row.clone()) for row in start]
    each = [DENSE[name]([row], weight_decay=decay) for row in rows]
    for touched, target in batches(60):
        loss = (torch.stack([rows[r] for r in touched.flatten()]) - target.flatten(0, 1)).square().sum().mul(0.1)
        loss.backward()
        for row in touched.unique():
            each[row].step()
            each[row].zero_grad()
    torch.testing.assert_close(store.weight.detach(), torch.stack(rows).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("correction", ["row", "step"])
def test_lazy_adam(kernel: str, correction: str) -> None:
    store = a_store()
    train(store, RowAdam([("t", store)], 0.01, bias_correction=correction, kernel=kernel))
    start = a_store().weight.detach()
    if correction == "step":
        other = RowStore(ROWS, DIM, gradient="sparse")
        other.weight.data.copy_(start)
        train(other, torch.optim.SparseAdam([other.weight], 0.01))
        expected = other.weight.detach()
    else:
        rows = [nn.Parameter(row.clone()) for row in start]
        each = [torch.optim.Adam([row], 0.01) for row in rows]
        for touched, target in batches(60):
            loss = (torch.stack([rows[r] for r in touched.flatten()]) - target.flatten(0, 1)).square().sum().mul(0.1)
            loss.backward()
            for row in touched.unique():
                each[row].step()
                each[row].zero_grad()
        expected = torch.stack(rows).detach()
    torch.testing.assert_close(store.weight.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_row_wise_adagrad_by_hand(kernel: str) -> None:
    store = a_store()
    before = store.weight.detach().clone()
    optimizer = RowAdagrad([("t", store)], 0.5, eps=0.1, kernel=kernel)
    store(torch.tensor([3, 3])).sum().backward()  # the gradient of row 3 is 2 everywhere
    optimizer.step()
    expected = before.clone()
    expected[3] -= 0.5 * 2.0 / (4.0**0.5 + 0.1)
    torch.testing.assert_close(store.weight.detach(), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_minibatch_decay_counts_a_row_once(kernel: str) -> None:
    store = a_store()
    before = store.weight.detach().clone()
    counts = torch.arange(ROWS)
    options: dict[str, Any] = {"weight_decay": 0.3, "decay": "minibatch", "row_counts": {"t": counts}, "kernel": kernel}
    optimizer = RowSGD([("t", store)], 0.1, **options)
    (store(torch.tensor([4, 4, 4])) * 0.0).sum().backward()
    optimizer.step()
    expected = before.clone()
    expected[4] *= 1 - 0.1 * 0.3 / 4
    torch.testing.assert_close(store.weight.detach(), expected)
    with pytest.raises(ValueError, match="row_counts"):
        RowSGD([("t", store)], 0.1, weight_decay=0.3, decay="minibatch")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_gradients_make_one_step(name: str) -> None:
    stores = [a_store(), a_store()]
    (rows, target), (more_rows, more_target) = batches(2)
    first, second = (OPTIMIZERS[name]([("t", store)]) for store in stores)
    (stores[0](rows) * target).sum().backward()
    (stores[0](more_rows) * more_target).sum().backward()
    first.step()
    (stores[1](torch.cat([rows, more_rows])) * torch.cat([target, more_target])).sum().backward()
    second.step()
    torch.testing.assert_close(stores[0].weight, stores[1].weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_state_is_restored_and_training_is_deterministic(name: str, decay: float) -> None:
    whole, resumed = a_store("bf16"), a_store("bf16")
    options: dict[str, Any] = {"weight_decay": decay, "state_dtype": torch.bfloat16, "seed": 3}
    one = OPTIMIZERS[name]([("t", whole)], **options)
    two = OPTIMIZERS[name]([("t", resumed)], **options)
    train(whole, one, 20)
    train(resumed, two, 20)
    three = OPTIMIZERS[name]([("t", resumed)], **options)
    three.load_state_dict(two.state_dict())
    train(whole, one, 20)
    train(resumed, three, 20)
    assert torch.equal(whole.weight, resumed.weight)
    with pytest.raises(ValueError, match="state"):
        RowAdam([("other", whole)]).load_state_dict(one.state_dict())


@pytest.mark.parametrize("rows", ["bf16", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_rows_follow_full_precision(name: str, rows: str) -> None:
    full, half = a_store(), a_store(rows)
    half.load_state_dict(full.state_dict())
    train(full, OPTIMIZERS[name]([("t", full)]), 200)
    train(half, OPTIMIZERS[name]([("t", half)], state_dtype=torch.bfloat16), 200)
    error = (half.weight.float() - full.weight).square().mean().sqrt()
    assert error < 0.05 * full.weight.square().mean().sqrt()


def test_schedulers_and_zero_grad() -> None:
    store = a_store()
    optimizer = RowAdam([("t", store)], 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    before = store.weight.detach().clone()
    store(torch.tensor([1])).sum().backward()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(store.weight, before)


def test_clipping_by_the_norm_of_rows_and_dense_parameters() -> None:
    store, dense = a_store(), nn.Parameter(torch.ones(3))
    store(torch.tensor([[2, 2, 7]])).sum().backward()
    dense.grad = torch.full((3,), 2.0)
    norm = clip_row_gradients([("t", store)], 1.0, [dense])
    expected = (DIM * (2.0**2 + 1.0) + 3 * 4.0) ** 0.5
    assert float(norm) == pytest.approx(expected)
    (rows, gradients) = store.pending[0]
    assert sorted(rows.tolist()) == [2, 7]
    assert float((gradients.square().sum() + dense.grad.square().sum()).sqrt()) == pytest.approx(1.0, rel=1e-4)


def test_clipping_counts_sparse_gradients() -> None:
    store = RowStore(ROWS, DIM, gradient="sparse")
    store(torch.tensor([[2, 2, 7]])).sum().backward()
    norm = clip_row_gradients([], 1.0, [store.weight])
    assert float(norm) == pytest.approx((DIM * (2.0**2 + 1.0)) ** 0.5)
    assert store.weight.grad is not None
    assert float(store.weight.grad.to_dense().norm()) == pytest.approx(1.0, abs=1e-5)


def test_gradients_of_a_lookup_after_clipping_are_added() -> None:
    store, plain = a_store(), a_store()
    for one in (store, plain):
        one(torch.tensor([1, 1, 2])).sum().backward()
        if one is store:
            clip_row_gradients([("t", one)], 1e9)
        one(torch.tensor([2, 3])).sum().backward()
        RowSGD([("t", one)], 0.1).step()
    torch.testing.assert_close(store.weight, plain.weight)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_may_be_numbered_in_32_bits(name: str, kernel: str) -> None:
    stores = [a_store("bf16"), a_store("bf16")]
    for store, integer in zip(stores, (torch.int32, torch.int64), strict=True):
        optimizer = OPTIMIZERS[name]([("t", store)], weight_decay=0.1, kernel=kernel)
        for rows, target in batches(10):
            optimizer.zero_grad()
            (store(rows.to(integer)) - target).square().sum().backward()
            optimizer.step()
    assert torch.equal(stores[0].weight, stores[1].weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_rows_and_state_are_the_same_in_both_kernels(name: str) -> None:
    """Updates and replays of bf16 rows with bf16 state; fused arithmetic may tip a value to its neighbour."""
    results = []
    for kernel in KERNELS:
        store = a_store("bf16")
        options: dict[str, Any] = {"weight_decay": 0.1, "max_replay": 4, "state_dtype": torch.bfloat16}
        optimizer = OPTIMIZERS[name]([("t", store)], kernel=kernel, **options)
        train(store, optimizer, 12)
        optimizer.catch_up()
        results.append(store.weight.float())
    torch.testing.assert_close(results[0], results[1], rtol=0.05, atol=0.02)
    assert (results[0] != results[1]).float().mean() < 0.1


def test_a_new_optimizer_takes_over_from_one_that_decays_rows_when_they_are_read() -> None:
    store = a_store()
    train(store, RowAdam([("t", store)], 0.01, weight_decay=0.5), 20)
    RowAdam([("t", store)], 0.01)
    before = store.weight.detach().clone()
    store(torch.arange(ROWS))
    assert torch.equal(store.weight, before)


def test_what_decay_leaves_is_one_running_sum_however_often_it_is_asked_for() -> None:
    often, seldom = Clock(0.1, -1), Clock(0.1, -1)
    rates = torch.rand(3000, generator=torch.Generator().manual_seed(0)).tolist()
    for step, rate in enumerate(rates):
        often.tick(rate)
        seldom.tick(rate)
        assert often.log_kept().shape == (step + 2,)
    assert np.array_equal(often.log_kept(), seldom.log_kept())
    loaded = Clock(0.1, -1)
    loaded.load_lr_sums(often.lr_sums.copy())
    assert np.array_equal(loaded.log_kept(), np.cumsum(np.log1p(-0.1 * np.diff(often.lr_sums, prepend=0.0))))


def test_a_row_optimizer_is_not_copied() -> None:
    with pytest.raises(TypeError, match="load state_dict"):
        copy.deepcopy(RowAdam([("t", a_store())]))


def test_state_is_counted_on_the_meta_device() -> None:
    store = RowStore(10**9, 16, device="meta")
    sizes = {name: tensor.numel() for name, tensor in RowAdam([("t", store)], weight_decay=0.1).state_tensors()}
    assert sizes == {"t.moment": 16 * 10**9, "t.square": 16 * 10**9, "t.seen": 10**9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"max_replay": -2}, "max_replay"),
        ({"decay": "x"}, "decay"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowAdam([("t", a_store())], **options)


def test_a_store_with_ordinary_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient='dense'"):
        RowSGD([("t", RowStore(3, 2, gradient="dense"))])


def test_weight_decay_cannot_change_unnoticed() -> None:
    optimizer = RowAdam([("t", a_store())], weight_decay=0.1)
    optimizer.param_groups[0]["weight_decay"] = 0.2
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer.step()
    with pytest.raises(ValueError, match="weight_decay"):
        RowAdam([("t", a_store())], weight_decay=0.1).load_state_dict(optimizer.state_dict())

"""The implementations of the row kernels agree: the same rows bit for bit, the same values to rounding."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rectab.ops import RowStore, address_rows, hash_rows, kernel_name, segment_sum, spread_bags, use_kernel
from rectab.ops import kernels_numba as fast
from rectab.ops import kernels_torch as plain
from rectab.ops.rounding import random_bits, round_stochastically
from rectab.optim import RowAdagrad, RowSGD

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
sizes = st.one_of(st.integers(0, 40), st.sampled_from([3000]))  # below and above what runs on one thread
dims = st.integers(1, 128)
many = settings(max_examples=25, deadline=None)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_row(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    order = rows.argsort()
    return rows[order], values[order]


@many
@given(
    count=sizes, inner=st.sampled_from([(), (3,), (2, 3)]), seed=st.integers(0, 99), integer=st.sampled_from([32, 64])
)
def test_hashed_rows_are_the_same_bits(count: int, inner: tuple[int, ...], seed: int, integer: int) -> None:
    ids = torch.randint(-(2**31), 2**31, (count, *(inner[:1] if inner else ())), generator=drawn(seed))
    ids = ids.to(torch.int32) if integer == 32 else ids * 7919
    ids = ids.unsqueeze(-1) if len(inner) == 2 else ids
    shape = (inner[0], 3) if len(inner) == 2 else inner
    salt = torch.randint(-(2**62), 2**62, shape, generator=drawn(seed + 1))
    num_rows = torch.randint(1, 2**31 - 1, shape, generator=drawn(seed + 2))
    with use_kernel("torch"):
        expected = hash_rows(ids, salt, num_rows)
    rows = hash_rows(ids, salt, num_rows)
    assert rows.dtype == torch.int64
    assert torch.equal(rows, expected)


@many
@given(count=sizes, seed=st.integers(0, 99), signs=st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4))
def test_addresses_of_ranges_are_the_same_bits(count: int, seed: int, signs: list[int]) -> None:
    ids = torch.randint(0, 50, (count, 4), generator=drawn(seed))
    num_rows = 50 * torch.tensor(signs, dtype=torch.int32)
    salt = torch.randint(-(2**62), 2**62, (4,), generator=drawn(seed))
    first = torch.arange(4, dtype=torch.int32) * 50
    with use_kernel("torch"):
        expected = address_rows(ids, salt, first, num_rows)
    assert torch.equal(address_rows(ids, salt, first, num_rows), expected)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("bad", [-1, 50, 2**40])
def test_an_id_outside_a_whole_vocabulary_is_refused(kernel: str, bad: int) -> None:
    ids = torch.tensor([[3], [bad]])
    with use_kernel(kernel), pytest.raises(IndexError, match=str(bad)):
        address_rows(ids, torch.zeros(1, dtype=torch.int64), torch.zeros(1), torch.tensor([-50]))


@many
@given(count=sizes, dim=dims, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99), integer=st.sampled_from([32, 64]))
def test_gathers_are_the_same_bits(count: int, dim: int, dtype: torch.dtype, seed: int, integer: int) -> None:
    weight = torch.randn(60, dim, generator=drawn(seed)).to(dtype)
    rows = torch.randint(0, 60, (count, 2), generator=drawn(seed)).to(torch.int32 if integer == 32 else torch.int64)
    assert torch.equal(fast.gather(weight, rows, torch.float32), plain.gather(weight, rows, torch.float32))
    assert torch.equal(fast.gather(weight, rows.t(), dtype), plain.gather(weight, rows.t(), dtype))


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
@pytest.mark.parametrize("grad", [False, True])
def test_a_row_outside_the_store_is_refused(bad: int, grad: bool) -> None:
    store = RowStore(5, 3)
    with torch.set_grad_enabled(grad), pytest.raises(IndexError):
        store(torch.tensor([0, bad]))


@many
@given(
    counts=st.lists(sizes, min_size=1, max_size=3),
    dim=dims,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    integer=st.sampled_from([torch.int32, torch.int64]),
)
def test_duplicates_are_summed(
    counts: list[int], dim: int, dtype: torch.dtype, seed: int, integer: torch.dtype
) -> None:
    generator = drawn(seed)
    pending = [
        (
            (torch.randint(0, 30, (count,), generator=generator) * 40_000_000).to(integer),
            torch.randn(dim, count, generator=generator).to(dtype).t(),
        )
        for count in counts
    ]
    rows, sums = by_row(*fast.coalesce(pending, dim))
    expected_rows, expected = by_row(*plain.coalesce(pending, dim))
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


@many
@given(num_rows=st.integers(0, 700), dim=dims, seed=st.integers(0, 99))
def test_norms_of_sums(num_rows: int, dim: int, seed: int) -> None:
    sums = torch.randn(num_rows, dim, generator=drawn(seed))
    torch.testing.assert_close(fast.norm(sums), plain.norm(sums), rtol=1e-5, atol=0)


def test_norms_say_that_sums_are_not_finite() -> None:
    sums = torch.zeros(600, 3)
    sums[599, 2] = torch.inf
    assert not torch.isfinite(fast.norm(sums))


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    rows, gradients = torch.randint(0, 500, (5000,), generator=drawn(0)), torch.randn(5000, 8, generator=drawn(1))
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(by_row(*fast.coalesce([(rows, gradients)], 8)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][1], results[1][1])


@many
@given(lengths=st.lists(st.integers(0, 300), max_size=20), dim=dims, weighted=st.booleans(), seed=st.integers(0, 99))
def test_bags_and_their_gradients(lengths: list[int], dim: int, weighted: bool, seed: int) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), dim, generator=drawn(seed), requires_grad=True)
    weights = torch.rand(sum(lengths), generator=drawn(seed), requires_grad=True) if weighted else None
    bags = torch.randn(len(lengths), dim, generator=drawn(seed + 1), requires_grad=True)
    inputs = [values, bags] + ([weights] if weights is not None else [])
    results = []
    for kernel in ("torch", "numba"):
        with use_kernel(kernel):
            outputs = [segment_sum(values, offsets, weights), spread_bags(bags, offsets)]
            loss = sum((output.square() * 0.5).sum() for output in outputs)
            results.append(outputs + list(torch.autograd.grad(loss, inputs)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offsets", [[0, 3], [1, 4], [0, 5, 4], [0, 9]])
def test_offsets_that_would_read_outside_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        segment_sum(torch.ones(4, 2), torch.tensor(offsets))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_right_on_average_and_exact_where_it_can_be(dtype: torch.dtype) -> None:
    values = torch.cat([torch.randn(500, generator=drawn(0)), torch.randn(500, generator=drawn(1)) * 1e-5])
    draws = torch.stack(
        [
            round_stochastically(values, random_bits(torch.arange(1000), 1, salt).view(-1), dtype).float()
            for salt in range(400)
        ]
    )
    bits, smallest = (8, 0.0) if dtype == torch.bfloat16 else (11, 2.0**-24)
    step = torch.exp2(torch.frexp(values).exponent.float() - bits).clamp(min=smallest)  # between neighbours
    assert ((draws.mean(0) - values).abs() / step).max() < 0.12  # 0.5 / sqrt(400) is one standard deviation
    exact = values.to(dtype).float()
    random = random_bits(torch.arange(1000), 1, 7).view(-1)
    assert torch.equal(round_stochastically(exact, random, dtype).float(), exact)


@many
@given(
    rows=st.sampled_from(["fp32", "bf16", "fp16"]),
    state=st.sampled_from([torch.float32, torch.bfloat16]),
    dim=dims,
    seed=st.integers(0, 99),
)
def test_updates_in_half_precision_are_the_same_bits_or_neighbours(
    rows: str, state: torch.dtype, dim: int, seed: int
) -> None:
    results = []
    for kernel in ("torch", "numba"):
        store = RowStore(40, dim, init_std=1.0, generator=drawn(seed + 1), rows=rows)
        counts = {"t": torch.rand(40, generator=drawn(seed)) * 10}
        options: dict[str, Any] = {"weight_decay": 0.01, "decay": "minibatch", "row_counts": counts, "kernel": kernel}
        squares = []
        for make in (RowSGD, partial(RowAdagrad, state="element", state_dtype=state)):
            optimizer = make([("t", store)], 0.1, **options)
            read = torch.randperm(40, generator=drawn(seed))[:20]
            (store(read) * torch.randn(20, dim, generator=drawn(seed))).sum().backward()
            optimizer.step()
            squares = [tensor for name, tensor in optimizer.state_tensors() if name == "t.square"]
        results.append((store.weight.detach(), *squares))
    for expected, got in zip(*results, strict=True):
        # Fused multiply-adds can tip a value over a rounding boundary: one unit in the last place, seldom.
        unit = 1e-5 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps
        torch.testing.assert_close(got.float(), expected.float(), rtol=2 * unit, atol=2 * unit)
        assert (got != expected).float().mean() < (1.0 if got.dtype == torch.float32 else 0.05)


def test_random_bits_do_not_depend_on_the_integer_type_of_rows() -> None:
    rows = torch.tensor([0, 2**28 + 5, 2**31 - 1])
    assert torch.equal(random_bits(rows, 64, 7), random_bits(rows.int(), 64, 7))


def test_kernels_are_chosen_by_device_and_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_name("cpu") == "numba"
    monkeypatch.setenv("RECTAB_KERNEL", "torch")
    assert kernel_name("cpu") == "torch"
    with use_kernel("numba"):
        assert kernel_name("cpu") == "numba"
    with pytest.raises(ValueError, match="kernel must be one of"):
        kernel_name("cpu", "cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CPU"):
        kernel_name("cuda", "numba")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_uses_plain_torch() -> None:
    fast.gather(torch.ones(100, 200), torch.arange(100), torch.float32)
    child = os.fork()
    if child == 0:
        os._exit(0 if kernel_name("cpu") == "torch" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_exports_use_plain_torch() -> None:
    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.store = RowStore(50, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.store(hash_rows(ids, 5, 50))

    model, ids = Lookup().eval(), torch.arange(6).view(2, 3)
    with torch.no_grad():
        program = torch.export.export(model, (ids,), strict=False)
        assert torch.equal(program.module()(ids), model(ids))


def test_a_copied_store_leaves_its_step_behind() -> None:
    store = RowStore(5, 3)
    store(torch.tensor([1])).sum().backward()
    store.before_lookup = lambda rows: None
    twin = copy.deepcopy(store)
    assert twin.pending == []
    assert twin.before_lookup is None
    assert len(store.pending) == 1
    assert torch.equal(twin.weight, store.weight)

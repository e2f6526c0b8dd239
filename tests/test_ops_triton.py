"""The triton kernels against the torch reference, run by triton's interpreter: no GPU is needed, nor used."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch

from rectab.ops import FloatFormat, RowStore, address_rows, every_format, segment_sum, spread_bags, use_kernel
from rectab.ops import kernels_torch as plain
from rectab.optim import RowAdagrad, RowAdam, RowSGD, clip_row_gradients

# Before triton is imported: its own functions are made for the interpreter or the compiler as they are declared.
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")
from rectab.ops import kernels_triton as fast

UPDATES: dict[str, Any] = {
    "sgd": RowSGD,
    "adagrad": partial(RowAdagrad, state="element"),
    "adagrad-row": RowAdagrad,
    "adam": RowAdam,
    "adam-step": partial(RowAdam, bias_correction="step"),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FEW_BITS = [f.name for f in every_format() if not isinstance(f, FloatFormat) and f.name != "int16"]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [0, 1, 1500])
def test_addresses_are_the_same_bits(count: int) -> None:
    ids = torch.randint(-(2**62), 2**62, (count, 2), generator=drawn(0))
    ids[:, 1] = ids[:, 1].abs() % 50
    salt, first = torch.tensor([-7, 2**61]), torch.tensor([0, 100])
    num_rows = torch.tensor([100, -50])
    with use_kernel("torch"):
        expected = address_rows(ids, salt, first, num_rows)
    assert torch.equal(fast.address(ids.reshape(-1), 1, salt, first, num_rows).view(-1, 2), expected)
    with pytest.raises(IndexError):
        fast.address(torch.tensor([50]), 1, salt[1:], first[1:], num_rows[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "dim"), [(0, 4), (3, 1), (700, 5), (20, 128)])
def test_gathers_are_the_same_bits(count: int, dim: int, dtype: torch.dtype) -> None:
    weight = torch.randn(30, dim, generator=drawn(0)).to(dtype)
    rows = torch.randint(0, 30, (count,), generator=drawn(1))
    assert torch.equal(fast.gather(weight, rows, torch.float32), plain.gather(weight, rows, torch.float32))
    with pytest.raises(IndexError):
        fast.gather(weight, torch.tensor([30]), dtype)


@pytest.mark.parametrize("name", FEW_BITS)
@pytest.mark.parametrize(("count", "dim"), [(0, 4), (3, 1), (70, 5), (9, 33)])
def test_rows_of_few_bits_are_read_to_the_same_bits(name: str, count: int, dim: int) -> None:
    store = RowStore(30, dim, rows=name)
    sizes = 10.0 ** torch.randint(-3, 2, (30, 1), generator=drawn(2))
    store.write(slice(None), torch.randn(30, dim, generator=drawn(0)) * sizes)
    rows = torch.randint(0, 30, (count, 2), generator=drawn(1))
    results = []
    for kernel in ("torch", "triton"):
        with use_kernel(kernel):
            results.append(store.read(rows))
    assert torch.equal(*results)
    with use_kernel("triton"), pytest.raises(IndexError):
        store.read(torch.tensor([30]))


@pytest.mark.parametrize("hot", [0.1, 1.0])
def test_a_row_of_many_gradients_is_summed_in_pieces_and_none_are_left_out(hot: float) -> None:
    count = 9000  # more than 64 x 64: pieces of pieces of pieces
    rows = torch.randint(0, 3000, (count,), generator=drawn(0))
    rows[: int(count * hot)] = 7
    rows[count // 2 : count // 2 + 5] = -1  # none
    gradients = torch.randn(count, 3, generator=drawn(1))
    there = rows >= 0
    exact = torch.zeros(3000, 3, dtype=torch.float64).index_add_(0, rows[there], gradients[there].double())
    distinct, sums = fast.coalesce([(rows, gradients)], 3)
    found = distinct >= 0
    assert torch.equal(distinct[found], rows[there].unique())
    assert torch.equal(found, torch.arange(count) < found.sum())
    torch.testing.assert_close(sums[found].double(), exact[distinct[found]], rtol=1e-5, atol=1e-4)
    assert not sums[~found].any()


@pytest.mark.parametrize("rows", ["fp32", "int8"])
def test_gradients_clipped_or_scaled_by_a_loop_reach_the_rows_alike(rows: str) -> None:
    results = []
    for kernel in ("torch", "triton"):
        with use_kernel(kernel):
            store = RowStore(20, 3, init_std=1.0, generator=drawn(0), rows=rows)
            optimizer = RowSGD([("t", store)], 0.5)
            for number in range(3):
                optimizer.zero_grad()
                looked_up = torch.tensor([[1, 2, 1], [5, 19, number]])
                (store(looked_up) * torch.randn(2, 3, 3, generator=drawn(number))).sum().backward()
                clip_row_gradients([("t", store)], 0.3)
                torch.nn.utils.clip_grad_norm_([store.handle], 0.2)
                distinct, _ = store.gradients.sum()
                assert sorted(distinct.tolist()) == sorted({1, 2, 5, 19, number})
                optimizer.step()
            results.append(store.read(slice(None)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5 if rows == "fp32" else 0.05)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "dim"), [(0, 4), (3, 1), (200, 5), (40, 128)])
def test_duplicates_are_summed(count: int, dim: int, dtype: torch.dtype) -> None:
    rows = torch.randint(0, 9, (count,), generator=drawn(0))
    pending = [(rows, torch.randn(count, dim, generator=drawn(1)).to(dtype)), (rows[:1], torch.ones(count and 1, dim))]
    pending = [(r, g.to(dtype)) for r, g in pending]
    rows, sums = fast.coalesce(pending, dim)
    there = rows >= 0
    assert not sums[~there].any()
    for got, expected in zip((rows[there], sums[there]), plain.coalesce(pending, dim), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("lengths", "dim"), [([], 3), ([0, 0], 4), ([3, 0, 1, 40], 5), ([70, 2], 1), ([1, 33], 128)])
def test_bags_and_their_gradients(lengths: list[int], dim: int, weighted: bool, dtype: torch.dtype) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    results = []
    for kernel in ("torch", "triton"):
        values = torch.randn(sum(lengths), dim, generator=drawn(0)).to(dtype).requires_grad_()
        weights = torch.rand(sum(lengths), generator=drawn(1)).requires_grad_() if weighted else None
        vectors = torch.randn(len(lengths), dim, generator=drawn(2)).to(dtype).requires_grad_()
        with use_kernel(kernel):
            total = segment_sum(values, offsets, weights)
            spread = spread_bags(vectors, offsets)
            (total.float().pow(2).sum() + spread.float().pow(2).sum()).backward()
        leaves = [values, vectors] if weights is None else [values, vectors, weights]
        results.append([total, spread, *(leaf.grad for leaf in leaves)])
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got.float(), expected.float(), rtol=tolerance, atol=tolerance * 10)


def test_offsets_that_would_read_outside_are_refused() -> None:
    for offsets in ([0, 5], [1, 3], [0, 2, 1, 3], []):
        with pytest.raises(ValueError, match="offsets must rise"):
            fast.segment_sum(torch.zeros(3, 2), torch.tensor(offsets), None)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("rows", "state"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float32)]
)
@pytest.mark.parametrize("dim", [1, 5, 16])
@pytest.mark.parametrize("optimizer", UPDATES)
def test_updates(optimizer: str, dim: int, rows: str, state: torch.dtype, shared: bool) -> None:
    results = []
    for kernel in ("torch", "triton"):
        store = RowStore(40, dim, init_std=1.0, generator=drawn(3), rows=rows)
        options = {"weight_decay": 0.02, "decay": "lazy" if shared else "minibatch", "state_dtype": state}
        counts = {"t": torch.rand(40, generator=drawn(2)) * 9}
        step = UPDATES[optimizer]([("t", store)], 0.1, row_counts=counts, kernel=kernel, **options)
        for number in range(2):
            read = torch.randperm(40, generator=drawn(number))[:21]
            (store(read) * torch.randn(21, dim, generator=drawn(number + 5))).sum().backward()
            step.step()
        results.append((store.weight.detach(), *(tensor for _, tensor in step.state_tensors())))
    for expected, got in zip(*results, strict=True):
        unit = torch.finfo(got.dtype).eps if got.dtype.is_floating_point else 0.0
        tolerance = max(8 * unit, 1e-5)
        torch.testing.assert_close(got.float(), expected.float(), rtol=tolerance, atol=tolerance)
        if got.dtype != torch.float32:
            assert (got != expected).float().mean() < 0.05  # seldom a neighbour


@pytest.mark.parametrize(
    ("dtype", "max_replay"), [(torch.float32, None), (torch.float32, 2), (torch.bfloat16, 2), (torch.float16, 2)]
)
@pytest.mark.parametrize("name", [name for name in UPDATES if name != "adam-step"])
def test_missed_steps_are_replayed_as_by_the_reference(name: str, dtype: torch.dtype, max_replay: int | None) -> None:
    """Rows come back after gaps of all lengths, several times in a lookup; -1 is no row."""
    rows_of, gradients_of = [], []
    for number in range(12):
        rows_of.append(torch.randint(0, 20, (4,), generator=drawn(number)).unique())
        gradients_of.append(torch.randn(len(rows_of[-1]), 5, generator=drawn(100 + number)))

    def trained(kernel: Any) -> dict[str, torch.Tensor]:
        store = RowStore(64, 5, rows=str(dtype).split(".")[1].replace("float", "fp").replace("bfp", "bf"))
        store.weight.data.copy_(torch.randn(64, 5, generator=drawn(7)))
        optimizer = UPDATES[name]([("t", store)], lr=0.05, weight_decay=0.1, max_replay=max_replay, kernel=kernel)
        updater = optimizer.rows["t"]
        for rows, gradients in zip(rows_of, gradients_of, strict=True):
            updater.refresh(rows.repeat(3))
            updater.update(rows, gradients, 0.05)
            optimizer.clock.tick(0.05)
        updater.refresh(torch.tensor([5, 63, 5, 0]))
        return {"weight": store.weight.detach().float(), **{k: v.float() for k, v in updater.state.items()}}

    expected, got = trained("torch"), trained("triton")
    assert torch.equal(got["seen"], expected["seen"])
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    for key, tensor in expected.items():
        torch.testing.assert_close(
            got[key], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_a_row_outside_is_not_replayed() -> None:
    store = RowStore(4, 3)
    updater = RowAdam([("t", store)], lr=0.1, weight_decay=0.1, kernel="triton").rows["t"]
    with pytest.raises(IndexError):
        updater.refresh(torch.tensor([4]))

"""Rows that are not floats, read and written by the triton kernels, against the torch reference; by the interpreter."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from rectab.ops import RowStore, every_format, formats, use_kernel
from rectab.ops.formats import FloatFormat, get_format
from rectab.ops.whole_formats import learned_format

# Before triton is imported: its own functions are made for the interpreter or the compiler as they are declared.
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")
from rectab.ops import kernels_triton as fast

TRAINED = [f.name for f in formats() if not isinstance(f, FloatFormat)]
SERVED = [f.name for f in every_format() if not f.trains]
NUM_ROWS = 30


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_format_has_kernels() -> None:
    assert len(TRAINED) >= 11
    for name in [*TRAINED, *SERVED]:
        assert set(get_format(name).tensors(1, 1)) in ({"codes", "scale"}, {"codes"}, {"fused"})
    for kernel in ("coded_gather", "fused_gather", "whole_gather", "coded_write", "fused_write"):
        assert kernel in fast.__all__


def store_of(name: str, dim: int) -> RowStore:
    """Any bytes, so that every code and unusual scales are read."""
    store = RowStore(NUM_ROWS, dim, rows=name, generator=drawn(0))
    for tensor in store.tensors.values():
        if not tensor.is_floating_point() and tensor.dim() == 2:
            low, high = (0, 256) if tensor.dtype == torch.uint8 else (-(2 ** (8 * tensor.itemsize - 1)), 127)
            tensor[::2] = torch.randint(low, high, tensor[::2].shape, generator=drawn(2)).to(tensor.dtype)
    if store.steps is not None:
        store.steps.step.fill_(0.37)
    return store


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", [*TRAINED, *SERVED])
@pytest.mark.parametrize(("count", "dim"), [(0, 4), (3, 1), (20, 5), (9, 33)])
def test_rows_are_read_to_the_same_bits(name: str, count: int, dim: int) -> None:
    store = store_of(name, dim)
    rows = torch.randint(0, NUM_ROWS, (count, 2), generator=drawn(1))
    results = []
    for kernel in ("torch", "triton"):
        with use_kernel(kernel):
            results.append(store.read(rows))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0, equal_nan=True)
    for outside in (NUM_ROWS, -1):
        with use_kernel("triton"), pytest.raises(IndexError):
            store.read(torch.tensor([outside]))


CASES = [
    pytest.param("sizes", 5),
    pytest.param("alike", 16, marks=pytest.mark.slow),
    pytest.param("sizes", 33),
    *(pytest.param(case, dim, marks=pytest.mark.slow) for case, dim in (("sizes", 1), ("alike", 130))),
]


def values_for(dim: int, case: str) -> tuple[Tensor, Tensor]:
    """Rows to write and what is written to them: rows of all sizes, some constant, 0, tiny or huge."""
    rows = torch.randperm(NUM_ROWS, generator=drawn(3))[:23]
    values = torch.randn(len(rows), dim, generator=drawn(4))
    if case == "sizes":
        values *= 10.0 ** (torch.rand(len(rows), 1, generator=drawn(5)) * 12 - 8)
        values[:3], values[3:5], values[5:7] = values[:3, :1], 0.0, 0.25
    return rows, values


def written(name: str, kernel: Any, rows: Tensor, values: Tensor, dim: int) -> dict[str, Tensor]:
    """What a store holds after three writes: new values, hardly other ones, and the same again."""
    row_format = learned_format(int(name[-1]), 0.03) if name.startswith("learned") else name
    store = RowStore(NUM_ROWS, dim, rows=row_format, init_std=0.1, generator=drawn(0))
    with use_kernel(kernel):
        store.write(rows, values, 5)
        store.write(rows, values * 0.97, 6)
        store.write(rows[::2], store.read(rows[::2]), 7)
        assert kernel == "torch" or store.read(rows).shape == values.shape
    return {**store.tensors, "read": store.read(slice(None))}


EXACT = [name for name in TRAINED if name not in ("int3", "int2", "ternary", "int1", "fused2")]


@pytest.mark.parametrize(("case", "dim"), CASES)
@pytest.mark.parametrize("name", [*EXACT, "learned8", "learned6", "learned4"])
def test_updated_rows_are_written_to_the_same_bytes(name: str, dim: int, case: str) -> None:
    rows, values = values_for(dim, case)
    expected, got = (written(name, kernel, rows, values, dim) for kernel in ("torch", "triton"))
    for key, tensor in expected.items():
        assert torch.equal(got[key], tensor), key


@pytest.mark.parametrize(("case", "dim"), CASES)
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in EXACT])
def test_updated_rows_of_few_levels_are_written_alike(name: str, dim: int, case: str) -> None:
    """A sum over the row chooses its scale, so of two scales that are equally good another may be taken, but seldom."""
    rows, values = values_for(dim, case)
    expected, got = (written(name, kernel, rows, values, dim) for kernel in ("torch", "triton"))
    same = torch.ones(NUM_ROWS, dtype=torch.bool)
    for key, tensor in expected.items():
        same &= (got[key] == tensor).view(NUM_ROWS, -1).all(1)
    assert same.float().mean() > 0.9
    off = [(held["read"][rows] - values).square().sum(1) for held in (got, expected)]
    torch.testing.assert_close(off[0], off[1], rtol=0.5, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", TRAINED)
def test_rows_that_are_not_finite_stay_so(name: str) -> None:
    rows, values = values_for(5, "alike")
    values[0, 1], values[1, 2], values[2, 4], values[3] = torch.nan, torch.inf, -torch.inf, torch.nan
    read = []
    for kernel in ("torch", "triton"):
        store = RowStore(NUM_ROWS, 5, rows=name, generator=drawn(0))
        with use_kernel(kernel):
            store.write(rows, values, 5)
            read.append(store.read(slice(None)))
    for held in read:
        assert not held[rows[:4]].isfinite().all(1).any()
    assert torch.equal(read[1][rows[4:]], read[0][rows[4:]])


def test_rows_given_twice_are_written_once_and_rows_outside_are_refused() -> None:
    for name in TRAINED:
        rows, values = values_for(7, "sizes")
        expected = written(name, "triton", rows, values, 7)["read"]
        twice = torch.cat([rows[:1], rows, rows[:1]])
        store = RowStore(NUM_ROWS, 7, rows=name, init_std=0.1, generator=drawn(0))
        with use_kernel("triton"):
            for factor, salt in ((1.0, 5), (0.97, 6)):
                store.write(twice, torch.cat([values[:1], values, values[:1]]) * factor, salt)
            store.write(rows[::2], store.read(rows[::2]), 7)
            with pytest.raises(IndexError):
                store.write(torch.tensor([NUM_ROWS]), values[:1], 5)
        assert torch.equal(store.read(slice(None)), expected)

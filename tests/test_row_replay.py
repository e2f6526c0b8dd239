"""L2 by replay of rows not held as floats: decay is replayed on the decoded copy, a row is rounded once a touch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from rectab.ops import RowStore, formats, get_format
from rectab.ops.formats import FloatFormat, Int8Format, Tensors
from rectab.optim import RowAdagrad, RowAdam, RowSGD

ROWS, DIM, STEPS = 12, 6, 30
OPTIMIZERS = [RowSGD, RowAdagrad, RowAdam]
CODED = [f.name for f in formats() if f.trains and not isinstance(f, FloatFormat)]


@dataclass(frozen=True)
class Unrounded(Int8Format):
    """int8 whose codes are the values themselves: what is left when rounding is switched off."""

    written: list[Tensor] = field(default_factory=list)

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> Tensors:
        return {"codes": torch.zeros(num_rows, row_dim, device=device)}

    def read(self, tensors: Tensors, rows: Tensor, row_dim: int) -> Tensor:
        return tensors["codes"][rows]

    def write(self, tensors: Tensors, rows: Tensor, values: Tensor, salt: int | None) -> None:
        self.written.append(rows)
        tensors["codes"][rows] = values


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def store_of(row_format: str) -> RowStore:
    return RowStore(ROWS, DIM, init_std=0.3, generator=drawn(0), rows=row_format)


def train(store: RowStore, optimizer: Any, step: int) -> Tensor:
    """One step on few rows, so that most are away for many; returns what the lookup read."""
    rows = torch.randint(0, 4 if step % 7 else ROWS, (5,), generator=drawn(step))
    read = store(rows)
    (read - 1.0).square().sum().backward()
    optimizer.step()
    return read.detach()


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> Unrounded:
    row_format = Unrounded()
    monkeypatch.setattr(
        "rectab.ops.rows.get_format", lambda name: row_format if name == "unrounded" else get_format(name)
    )
    return row_format


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_without_rounding_it_is_what_fp32_does(make: Any, kernel: str, unrounded: Unrounded) -> None:
    options = {"lr": 0.05, "weight_decay": 0.05, "max_replay": None, "kernel": kernel}
    stores = [store_of("fp32"), store_of("unrounded")]
    optimizers = [make([("t", store)], **options) for store in stores]
    for step in range(STEPS):
        plain, coded = (train(store, optimizer, step) for store, optimizer in zip(stores, optimizers, strict=True))
        torch.testing.assert_close(coded, plain, rtol=2e-5, atol=1e-6)
    for optimizer in optimizers:
        optimizer.catch_up()
    torch.testing.assert_close(stores[1].read(slice(None)), stores[0].read(slice(None)), rtol=2e-5, atol=1e-6)
    away = store_of("fp32").read(slice(None))
    assert (stores[1].read(slice(None)) - away).abs().amax(1).min() > 1e-3, "every row has decayed"


def test_a_row_is_written_once_a_touch(unrounded: Unrounded) -> None:
    store = store_of("unrounded")
    optimizer = RowAdam([("t", store)], 0.05, weight_decay=0.05)
    unrounded.written.clear()
    touched = torch.tensor([7, 2, 7])
    for _ in range(3):
        for _ in range(2):
            store(touched).sum().backward()  # read twice, with duplicates, before a step
        with torch.no_grad():
            store(torch.arange(ROWS))
        assert unrounded.written == []
        optimizer.step()
        assert [sorted(rows.tolist()) for rows in unrounded.written] == [[2, 7]]
        unrounded.written.clear()


@pytest.mark.parametrize("rows", CODED)
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_read_gives_the_replayed_value_and_writes_nothing(make: Any, rows: str) -> None:
    store = store_of(rows)
    held = store.read(torch.tensor([9]))
    optimizer = make([("t", store)], lr=0.05, weight_decay=0.05, max_replay=None)
    plain = RowStore(1, DIM)
    plain.write(slice(None), held)
    reference = make([("t", plain)], lr=0.05, weight_decay=0.05, max_replay=None)
    for _ in range(20):
        for one, step in ((store, optimizer), (plain, reference)):
            one(torch.tensor([0])).sum().mul(0.0 if one is plain else 1.0).backward()
            step.step()
    before = {**store.tensors, **optimizer.rows["t"].state}
    before = {name: tensor.clone() for name, tensor in before.items()}
    with torch.no_grad():
        read = store(torch.tensor([[9, 9], [9, 0]]))
    torch.testing.assert_close(read[0, 0], plain.read(torch.tensor([0]))[0], rtol=2e-5, atol=1e-7)
    assert torch.equal(read[0, 0], read[1, 0])
    assert not torch.allclose(read[0, 0], held[0], rtol=1e-3)
    for name, tensor in {**store.tensors, **optimizer.rows["t"].state}.items():
        assert torch.equal(tensor, before[name]), name

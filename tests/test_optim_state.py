"""The optimizer's bytes: second moments a row, factored ones, state of one byte an element."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.optim import RowAdagrad, RowAdam, RowOptimizer

ROWS, DIM = 60, 10


def store_of(rows: str = "fp32") -> RowStore:
    return RowStore(ROWS, DIM, init_std=0.1, generator=torch.Generator().manual_seed(0), rows=rows)


def loss_of(store: RowStore, step: int, batch: int = 30) -> Tensor:
    at = (torch.rand(batch, generator=torch.Generator().manual_seed(step)) ** 2 * ROWS).long()
    wanted = (at.unsqueeze(1) * 0.7 + torch.arange(DIM)).sin()
    return (store(at) - wanted).square().mean()


def train(optimizer: RowOptimizer, store: RowStore, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(store, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def state_bytes(optimizer: RowOptimizer) -> float:
    """A row, without what says how often it was updated."""
    kept = [t for name, t in optimizer.state_tensors() if not name.endswith((".steps", ".seen", ".column"))]
    return sum(t.numel() * t.element_size() for t in kept) / ROWS


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 8 * DIM),
        ({"square": "row"}, 4 * DIM + 4),
        ({"square": "factored"}, 4 * DIM + 4),
        ({"state_dtype": torch.bfloat16}, 4 * DIM),
        ({"state_dtype": torch.int8}, 2 * DIM + 4),
        ({"state_dtype": torch.int8, "square": "row"}, DIM + 2 + 4),
        ({"state_dtype": torch.int8, "square": "factored"}, DIM + 2 + 4),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.001])
@pytest.mark.parametrize("rows", ["fp32", "int8"])
def test_bytes_and_learning(options: dict[str, Any], size: int, decay: float, rows: str) -> None:
    store = store_of(rows)
    optimizer = RowAdam([("s", store)], lr=0.03, weight_decay=decay, **options)
    assert state_bytes(optimizer) == size
    losses = train(optimizer, store, range(150))
    plain = store_of()
    reference = train(RowAdam([("s", plain)], lr=0.03, weight_decay=decay), plain, range(150))
    assert sum(losses[-20:]) < max(1.5 * sum(reference[-20:]), 0.05 * sum(losses[:20]))


def test_a_row_shares_the_mean_of_its_squares() -> None:
    """Two steps beside the formula, all rows in each."""
    store, beta = store_of(), (0.9, 0.99)
    optimizer = RowAdam([("s", store)], lr=0.1, betas=beta, square="row")
    w, m, v = store.read(slice(None)), torch.zeros(ROWS, DIM), torch.zeros(ROWS, 1)
    for step in (1, 2):
        optimizer.zero_grad()
        factor = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(step))
        (store(torch.arange(ROWS)) * factor).sum().backward()
        optimizer.step()
        m = beta[0] * m + (1 - beta[0]) * factor
        v = beta[1] * v + (1 - beta[1]) * factor.square().mean(1, keepdim=True)
        w = w - 0.1 * m / (1 - beta[0] ** step) / ((v / (1 - beta[1] ** step)).sqrt() + 1e-8)
    torch.testing.assert_close(store.read(slice(None)), w)


def test_factored_squares_of_rank_one_are_those_of_the_elements() -> None:
    """Where every gradient is a row's size times a column's, nothing is lost."""
    ends = []
    for square in ("element", "factored"):
        store = store_of()
        optimizer = RowAdam([("s", store)], lr=0.1, square=square)
        for _ in range(5):
            optimizer.zero_grad()
            size = torch.arange(1, ROWS + 1).unsqueeze(1) * torch.arange(1, DIM + 1)
            (store(torch.arange(ROWS)) * size).sum().backward()
            optimizer.step()
        ends.append(store.read(slice(None)))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("square", ["row", "factored"])
def test_a_row_that_was_away_replays_its_steps(square: Any) -> None:
    """A row read once and then at the last step, beside one that the dense rule moves in every step."""
    ends = []
    for every_step in (False, True):
        store = store_of()
        optimizer = RowAdam([("s", store)], lr=0.01, weight_decay=0.1, square=square, max_replay=None)
        for step in range(12):
            optimizer.zero_grad()
            rows = torch.tensor([3, 4])
            loss = store(rows).square().sum() if step in (0, 11) else 0.0 * store(rows[1:]).sum()
            if every_step and step not in (0, 11):
                loss = 0.0 * store(rows).sum()
            loss.backward()
            optimizer.step()
        ends.append(store.read(torch.tensor([3])))
    # What columns were while a row was away is not kept.
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6 if square == "row" else 1e-3)


def test_state_of_int8_never_divides_by_a_root_that_rounded_away() -> None:
    store = store_of()
    optimizer = RowAdam([("s", store)], lr=0.01, state_dtype=torch.int8)
    before = store.read(slice(None))
    for _ in range(30):
        optimizer.zero_grad()
        size = torch.full((DIM,), 1e-6)
        size[0] = 1.0  # a root of 127 steps beside roots of next to none
        (store(torch.arange(ROWS)) * size).sum().backward()
        optimizer.step()
    assert (store.read(slice(None)) - before).abs().max() < 30 * 0.01 * 1.5


@pytest.mark.parametrize("options", [{"state_dtype": torch.int8}, {"square": "factored"}])
def test_it_moves_resets_and_resumes(options: dict[str, Any]) -> None:
    store = store_of()
    optimizer = RowAdam([("s", store)], lr=0.03, **options)
    train(optimizer, store, range(10))
    state = optimizer.rows["s"].per_row()
    optimizer.move(store, torch.tensor([2]), torch.tensor([50]))
    assert all(torch.equal(t[50], t[2]) for t in state.values())
    optimizer.reset(store, torch.tensor([2]))
    assert not any(t[2].any() for t in state.values())
    other = store_of()
    other.load_state_dict(store.state_dict())
    resumed = RowAdam([("s", other)], lr=0.03, **options)
    resumed.load_state_dict(optimizer.state_dict())
    assert train(optimizer, store, range(10, 20)) == train(resumed, other, range(10, 20))


def test_what_cannot_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="square must be"):
        RowAdam([("s", store_of())], square="column")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int8 starts at 0"):
        RowAdagrad([("s", store_of())], state="element", initial_accumulator_value=0.1, state_dtype=torch.int8)

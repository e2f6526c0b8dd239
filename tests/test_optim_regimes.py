"""Rules around rules, against their formulas written out, and rows that start again with every epoch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from training_helpers import tiny_dataset

from rectab.models import ModelConfig
from rectab.ops import RowStore
from rectab.optim import AdaptiveForget, CowClip, FrequencyRate, Nested, RowAdam, RowSGD
from rectab.optim.regimes import AroundRule
from rectab.tables import plan
from rectab.training.config import TrainConfig
from rectab.training.trainer import Trainer


def store_of(rows: str = "fp32") -> RowStore:
    return RowStore(6, 4, init_std=0.5, generator=torch.Generator().manual_seed(0), rows=rows)


def sgd(store: RowStore, *around: AroundRule, lr: float = 0.1) -> RowSGD:
    return RowSGD([("store", store)], lr, rules={"store": Nested(around)})


def step(store: RowStore, optimizer: RowSGD, rows: list[int], slope: float = 1.0) -> None:
    (slope * store(torch.tensor(rows))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def values(store: RowStore) -> Tensor:
    return store.read(slice(None)).clone()


def test_cowclip_clips_by_the_rows_length_and_its_lookups() -> None:
    store = store_of()
    store.write(torch.tensor([5]), torch.zeros(1, 4))
    before = values(store)
    optimizer = sgd(store, CowClip(0.01))
    step(store, optimizer, [0, 0, 0, 1, 5], slope=100.0)
    after = values(store)
    moved = (before - after).norm(dim=1) / 0.1
    assert moved[0].item() == pytest.approx(3 * before[0].norm().item(), rel=1e-4)
    assert moved[1].item() == pytest.approx(before[1].norm().item(), rel=1e-4)
    assert moved[5].item() == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(before[2:5], after[2:5])
    step(store, optimizer, [1], slope=1e-3)  # short enough
    assert torch.allclose(values(store)[1], after[1] - 0.1 * 1e-3)


def test_lookups_count_where_gradients_are_cleared_after_the_loss_is_computed() -> None:
    store = store_of()
    before = values(store)
    optimizer = sgd(store, CowClip(0.01))
    for _ in range(2):  # as loops do, rectab's trainer among them
        before = values(store)
        loss = (100.0 * store(torch.tensor([0, 0, 0]))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = (before - values(store))[0].norm().item() / 0.1
        assert moved == pytest.approx(3 * before[0].norm().item(), rel=1e-4)


def test_lookups_that_were_dropped_are_not_counted() -> None:
    store = store_of()
    optimizer = sgd(store, CowClip(0.0))
    store(torch.tensor([0, 0, 0])).sum().backward()
    optimizer.zero_grad()
    with torch.no_grad():
        store(torch.tensor([0]))
    before = values(store)
    step(store, optimizer, [0], slope=100.0)
    assert (before - values(store))[0].norm().item() == pytest.approx(0.1 * before[0].norm().item(), rel=1e-4)


def test_a_row_forgets_by_the_steps_it_was_away() -> None:
    store = store_of()
    optimizer = sgd(store, AdaptiveForget(0.2))
    start = values(store)
    step(store, optimizer, [0, 1], slope=0.0)
    assert torch.equal(values(store), start)  # the first time there is nothing to forget
    for _ in range(2):
        step(store, optimizer, [1], slope=0.0)
    step(store, optimizer, [0], slope=1.0)
    assert torch.allclose(values(store)[0], start[0] * (1 - 0.2 * 3) - 0.1)
    assert torch.allclose(values(store)[1], start[1] * 0.8 * 0.8)
    for _ in range(9):
        step(store, optimizer, [2], slope=0.0)
    step(store, optimizer, [0], slope=0.0)
    assert torch.count_nonzero(values(store)[0]) == 0


@pytest.mark.parametrize("how", ["slower", "faster"])
def test_rates_follow_frequency(how: str) -> None:
    store = store_of()
    optimizer = sgd(store, FrequencyRate(how))  # type: ignore[arg-type]
    step(store, optimizer, [0] * 7 + [1], slope=0.0)
    before = values(store)
    step(store, optimizer, [0, 1], slope=1.0)
    moved = (before - values(store))[:2, 0]
    counts = (8, 2)
    gradient = 0.1
    if how == "slower":
        expected = [gradient * math.log(c + 1) / math.log(9) for c in counts]
    else:
        expected = [gradient * math.sqrt(5 / c) for c in counts]
    assert moved.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", ["fp32", "bf16", "int8"])
def test_they_go_around_adam_and_each_other_and_resume(rows: str) -> None:
    around = [CowClip(1e-4), FrequencyRate("slower"), AdaptiveForget(1e-3)]
    results = []
    for stopped in (False, True):
        store = store_of(rows)
        optimizer = RowAdam([("store", store)], 0.01, rules={"store": Nested(around)})
        for number in range(6):
            step(store, optimizer, [number % 3, 4, 4])  # type: ignore[arg-type]
            if stopped and number == 2:
                state = optimizer.state_dict()
                held = {k: v.clone() for k, v in state["state"].items()}
                optimizer = RowAdam([("store", store)], 0.01, rules={"store": Nested(around)})
                optimizer.load_state_dict({**state, "state": held})
        results.append(values(store))
    assert torch.equal(*results)
    optimizer.reset(store, torch.tensor([4]))
    assert optimizer.rows["store"].state["frequency"][4] == 0
    assert optimizer.rows["store"].state["most"] == 12


def test_without_them_nothing_changes() -> None:
    plain, nested = store_of(), store_of()
    one, other = RowAdam([("store", plain)], 0.01), RowAdam([("store", nested)], 0.01, rules={"store": Nested(())})
    for number in range(3):
        step(plain, one, [number, 4])  # type: ignore[arg-type]
        step(nested, other, [number, 4])  # type: ignore[arg-type]
    assert torch.equal(values(plain), values(nested))
    assert "cowclip" not in TrainConfig().to_json()
    assert TrainConfig(cowclip=0.0).to_json()["cowclip"] == 0.0


def trained(**settings: object) -> Trainer:
    dataset = tiny_dataset(rows=300)
    table = plan("full", dataset.schema.vocabularies, 4).build()
    config = TrainConfig(batch_size=64, max_epochs=2, evaluations_per_epoch=1, lr=0.05, **settings)  # type: ignore[arg-type]
    trainer = Trainer(dataset, table, ModelConfig.from_options("mlp"), config, progress="off")
    trainer.fit()
    return trainer


def test_rows_that_start_again_with_an_epoch() -> None:
    first, plain = trained(restart_rows=True), trained()
    assert not torch.equal(first.table.state_dict()["store.weight"], plain.table.state_dict()["store.weight"])
    rows = RowAdam(first.table.row_stores(), lr=0.1)
    assert rows is not None
    again = trained(restart_rows=True)
    assert torch.equal(first.table.state_dict()["store.weight"], again.table.state_dict()["store.weight"])


@pytest.mark.parametrize("settings", [{"cowclip": 1e-4}, {"row_forget": 1e-3}, {"row_frequency": "slower"}])
def test_settings_reach_the_rows(settings: dict) -> None:
    weights = [trained(**given).table.state_dict()["store.weight"] for given in (settings, {})]
    assert not torch.equal(*weights)
    with pytest.raises(ValueError, match="is of row optimizers"):
        TrainConfig(gradient="dense", **settings)

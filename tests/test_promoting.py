"""Hooks of a table (rules, after_step) and of the optimizer (move, reset), in the trainer and in a host's own loop."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_helpers import run_with_kills, tiny_dataset

from rectab import swap_
from rectab.optim import RowAdam, RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, registry
from rectab.training import RunResult, TrainConfig, load_model, train_once

SIZES = (300, 40)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method is there for the tests of this file alone."""
    registry.methods()
    monkeypatch.setattr(registry, "_RECORDS", dict(registry._RECORDS))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "promoting", raising=False)
    importlib.import_module("promoting")


def table_of(rows: str = "fp32", every: int = 4) -> EmbeddingTable:
    vocabularies = [Vocabulary(name, n) for name, n in zip("ab", SIZES, strict=True)]
    config = registry.get_method("promoting").config((30, 5), own=6, every=every)
    return registry.build_table("promoting", vocabularies, 4, config, TableOptions(init_std=0.1, rows=rows))


def zipf_ids(seed: int, shift: int = 0, batch: int = 64) -> Tensor:
    """int64 [batch, 2]; the ids read most are ``shift``, ``shift + 1``, ..."""
    drawn = torch.rand(batch, 2, generator=torch.Generator().manual_seed(seed)) ** 4
    return ((drawn * torch.tensor(SIZES)).long() + shift) % torch.tensor(SIZES)


def train(table: EmbeddingTable, optimizer: RowOptimizer, steps: range, shift: int = 0) -> None:
    """Without the hook of the table."""
    for step in steps:
        optimizer.zero_grad()
        table(zipf_ids(step, shift), torch.arange(2)).sub(1.0).square().mean().backward()
        optimizer.step()


@torch.no_grad()
def vectors(table: EmbeddingTable) -> Tensor:
    return torch.cat([table(torch.arange(n), vocabulary) for vocabulary, n in enumerate(SIZES)])


def held(optimizer: RowOptimizer, name: str) -> dict[str, Tensor]:
    """A copy of all that the optimizer and the store hold for every row."""
    rows = optimizer.rows[name]
    return {key: t.clone() for key, t in {**rows.state, **rows.store.tensors}.items()}


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("rows", ["fp32", "bf16", "int8"])
def test_a_promoted_row_takes_its_state_along_and_a_demoted_one_starts_again(rows: str, decay: float) -> None:
    table: Any = table_of(rows)
    optimizer = RowAdam(table.row_stores(), 0.05, rules=table.rules(), weight_decay=decay)
    assert optimizer.rows["own"].rule.eps == 1e-6
    assert optimizer.rows["store"].rule.eps == 1e-8
    train(table, optimizer, range(4))
    shared = held(optimizer, "store")
    before = vectors(table)
    table.after_step(4, optimizer)
    own = held(optimizer, "own")
    assert own["moment"].any()
    for new, number in enumerate(table.owner.tolist()):
        id_, vocabulary = (number, 0) if number < SIZES[0] else (number - SIZES[0], 1)
        old = int(table.address(torch.tensor(id_), torch.tensor(vocabulary)))
        assert {k: t[new].tolist() for k, t in own.items()} == {k: t[old].tolist() for k, t in shared.items()}
    assert torch.equal(vectors(table), before), "a promotion changes no vector"

    train(table, optimizer, range(4, 40), shift=150)  # other ids come into fashion
    gone = {int(n) for n in table.owner}
    table.after_step(40, optimizer)
    gone -= {int(n) for n in table.owner}
    assert len(gone) >= 3
    assert (table.slot[list(gone)] == -1).all()
    assert (table.slot >= 0).sum() == (table.owner >= 0).sum() == 6
    assert torch.equal(table.slot[table.owner].long(), torch.arange(6))


def test_a_freed_row_holds_nothing_of_its_last_owner() -> None:
    table: Any = table_of()
    optimizer = RowAdam(table.row_stores(), 0.05, rules=table.rules())
    train(table, optimizer, range(4))
    table.after_step(4, optimizer)
    train(table, optimizer, range(4, 8))
    assert all(t.any() for t in held(optimizer, "own").values())
    table.counts.zero_()
    table.after_step(8, optimizer)
    assert (table.owner == -1).all()
    assert not any(t.any() for t in held(optimizer, "own").values())


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (nn.Embedding(n, 16) for n in SIZES)
        self.out = nn.Linear(32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(ids[:, 0]), self.b(ids[:, 1])], 1)).squeeze(1)


def losses_of_host() -> tuple[list[float], EmbeddingTable, RowOptimizer]:
    """A loop that knows nothing of rows or tables but the two lines that swap them in."""
    model = Host()
    result = swap_(model, "promoting", "40%", gradient="row", own=6, every=4, verbose=False)
    rows = RowAdam(result.row_stores(), 0.05, rules=result.rules())
    optimizer = torch.optim.SGD(model.out.parameters(), lr=0.05)
    result.step_with(optimizer, rows)
    losses = []
    for step in range(60):
        ids = zipf_ids(step)
        optimizer.zero_grad()
        loss = (model(ids) - (ids % 3).float().sum(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    (table,) = result.tables
    return losses, table, rows


def test_a_loop_of_the_hosts_own_promotes_and_gives_the_same_again() -> None:
    losses, table, rows = losses_of_host()
    again, other, _ = losses_of_host()
    assert losses == again
    assert all(torch.equal(t, other.state_dict()[key]) for key, t in table.state_dict().items())
    assert (table.slot >= 0).sum() == 6
    assert rows.rows["0.own"].rule.eps == 1e-6
    assert held(rows, "0.own")["square"].any()
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def run(out_dir: Path | None, decay: float = 0.001) -> RunResult:
    torch.set_num_threads(1)
    return train_once(
        tiny_dataset(800),
        method="promoting",
        budget="90%",
        method_options={"every": 3},
        model="mlp",
        model_options={"hidden": (8,)},
        embedding_dim=8,
        train_config=TrainConfig(
            batch_size=100, lr=0.01, max_epochs=2, embedding_l2=decay, checkpoint_seconds=0.0, precision="fp32"
        ),
        out_dir=out_dir,
        progress="off",
    )


def test_the_trainer_promotes_is_deterministic_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run(tmp_path / "first"), run(None)
    resumed, calls = run_with_kills(monkeypatch, 7, lambda: run(tmp_path / "resumed"))
    assert calls > 7
    assert first.valid == second.valid == resumed.valid
    one, other = (load_model(tmp_path / name / "model.safetensors").table for name in ("first", "resumed"))
    assert (one.slot >= 0).sum() == 8
    assert all(torch.equal(t, other.state_dict()[key]) for key, t in one.state_dict().items())

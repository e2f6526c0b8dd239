"""AutoDim: the mixture of widths, the choice under a budget, and its two stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_helpers import counted, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, plan
from rectab.tables.autodim import AutoDimTable, CompactAutoDimTable
from rectab.tables.autodim.choice import AlphaStep
from rectab.training import TrainConfig, Trainer

DIM = 8


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(1500))


def search_table(vocabularies: Any, budget: str | None = None, **settings: Any) -> AutoDimTable:
    table = plan("autodim", vocabularies, DIM, budget, options=TableOptions(seed=1), **settings).build()
    assert isinstance(table, AutoDimTable)
    return table


def trainer_of(dataset: PreparedDataset, budget: str | None, **settings: Any) -> Trainer:
    model = ModelConfig.from_options("mlp", "mean", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=100, max_epochs=2, lr=0.01, seed=1, precision="fp32")
    table = search_table(dataset.schema.vocabularies, budget, **settings)
    return Trainer(dataset, table, model, config, progress="off")


@torch.no_grad()
def test_a_vector_mixes_its_candidates_brought_to_one_size(vocabularies: list[Vocabulary]) -> None:
    table = search_table(vocabularies).eval()
    assert table.candidates == [1, 2, 4, 8]
    table.alpha[1] = torch.tensor([0.0, 1.0, -1.0, 0.5])
    rows = table.store.read(table.address(torch.arange(50), torch.tensor(1)))
    shares, parts = table.alpha[1].softmax(0), []
    for choice, width in enumerate(table.candidates):
        given = rows[:, :width] @ table.matrix[1, choice, :width]
        parts.append(shares[choice] * given)
    expected = table.gain[1].view(()) * sum(parts)
    torch.testing.assert_close(table(torch.arange(50), 1), expected)
    table.matrix[1, 0] *= 100.0  # sizes say nothing about a candidate
    torch.testing.assert_close(table(torch.arange(50), 1), expected)


def test_the_likeliest_widths_are_chosen_as_far_as_the_budget_holds_them(vocabularies: list[Vocabulary]) -> None:
    free = search_table(vocabularies)
    with torch.no_grad():
        free.alpha.copy_(torch.tensor([[0.0, 0, 0, 3], [0.0, 0, 3, 0], [5, 0, 0, 0.0], [0, 1, 0, 0.0]]))
    assert free.widths() == (8, 4, 1, 2)
    for budget in ("60%", "40%", "20%"):
        table = search_table(vocabularies, budget)
        with torch.no_grad():
            table.alpha.copy_(free.alpha)
        widths = table.widths()
        served = table.serving()
        assert served.ledger().bytes <= (table.config.budget_bytes or 0)
        assert served.config.widths == widths
    assert widths != free.widths()


def test_a_choice_moves_on_validation_batches_alone(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, None)
    table = trainer.table
    assert isinstance(table, AutoDimTable)
    table.alpha.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    AlphaStep(table, trainer)(1)
    changed = {n for n, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"table.alpha"}
    assert trainer.model.training
    sizes = (table.alpha.detach() - before["table.alpha"]).abs().mean(1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, table.config.alpha_lr), rtol=1e-3, atol=0)
    assert not table.store.pending


def test_search_then_training_from_scratch(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(dataset, "60%")
    planned = trainer.table.planned_serving().bytes
    network = {name: p.clone() for name, p in trainer.model.state_dict().items() if not name.startswith("table.")}
    fresh: list[bool] = []
    restart = Trainer.restart

    def watched(self: Trainer, table: Any, model_state: Any = None) -> None:
        restart(self, table, model_state)
        now = self.model.state_dict()
        fresh.append(all(torch.equal(now[name], p) for name, p in network.items()))

    monkeypatch.setattr(Trainer, "restart", watched)
    trainer.fit()
    assert fresh == [True]
    assert [stage["stage"] for stage in trainer.stages] == ["search", "retrain"]
    assert isinstance(trainer.table, CompactAutoDimTable)
    assert trainer.table.ledger().bytes <= planned
    assert [finding.kind for finding in trainer.table.learned()] == ["by vocabulary", "grid"]


def test_options_are_checked(vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(ValueError, match="widths must be distinct"):
        plan("autodim", vocabularies, DIM, "50%", widths=(2, 2))
    with pytest.raises(ValueError, match="must not be negative"):
        plan("autodim", vocabularies, DIM, "50%", alpha_lr=-1.0)

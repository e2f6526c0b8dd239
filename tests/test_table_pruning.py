"""Methods that prune entries of a full table: what is kept, that a budget holds, and that what went stays away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from training_helpers import counted, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, plan
from rectab.tables.magnitude import MagnitudeTable, SparseTable
from rectab.training import TrainConfig, Trainer

DIM = 8


@torch.no_grad()
def vectors_of(table: EmbeddingTable) -> Tensor:
    """[N, D] of every id of every vocabulary."""
    return torch.cat([table(torch.arange(v.num_embeddings), i) for i, v in enumerate(table.vocabularies)])


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(1500))


def trainer_of(dataset: PreparedDataset, method: str, budget: str | None = "30%", **settings: Any) -> Trainer:
    planned = plan(method, dataset.schema.vocabularies, DIM, budget, options=TableOptions(seed=1), **settings)
    model = ModelConfig.from_options("mlp", "mean", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=100, max_epochs=3, lr=0.01, seed=1, precision="fp32", embedding_l2=1e-3)
    return Trainer(dataset, planned.build(), model, config, progress="off")


@pytest.mark.parametrize(
    ("budget", "rows"), [*((b, r) for b in (None, "75%", "30%", "2%") for r in ("fp32", "bf16")), ("10%", "int8")]
)
def test_the_largest_entries_are_served(budget: str | None, rows: str, vocabularies: list[Vocabulary]) -> None:
    table = plan("pruned", vocabularies, DIM, budget, options=TableOptions(rows=rows, init_std=0.1)).build()
    assert isinstance(table, MagnitudeTable)
    whole, served = table.rows(), table.serving()
    vectors = vectors_of(served).float()
    kept = vectors != 0
    if rows == "int8":  # rounded again, an entry a row
        torch.testing.assert_close(vectors[kept], whole[kept], rtol=0.02, atol=0)
    else:
        assert torch.equal(vectors[kept], whole[kept])
    if budget is None:
        assert torch.equal(kept, whole != 0)
        return
    assert int(kept.sum()) == served.config.num_entries
    assert served.ledger().bytes <= (table.config.budget_bytes or 0)
    if not kept.all():  # half of the bytes hold every entry in half of the bits
        assert whole[kept].abs().min() >= whole[~kept].abs().max()
        assert 0.97 * (table.config.budget_bytes or 0) <= served.ledger().bytes


@pytest.mark.parametrize("method", ["pruned"])
def test_what_was_pruned_stays_zero_and_the_rest_trains_on(
    method: str, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[Tensor] = []
    restart = Trainer.restart

    def watched(self: Trainer, table: Any, model_state: Any = None) -> None:
        pruned.append(vectors_of(table))
        restart(self, table, model_state)

    monkeypatch.setattr(Trainer, "restart", watched)
    trainer = trainer_of(dataset, method)
    budget = trainer.table.planned_serving().bytes
    trainer.fit()
    assert isinstance(trainer.table, SparseTable)
    assert trainer.table.ledger().bytes <= budget
    tuned = vectors_of(trainer.table)
    assert torch.count_nonzero(tuned[pruned[-1] == 0]) == 0
    assert not torch.equal(tuned, pruned[-1])
    titles = {finding.title for finding in trainer.table.learned()}
    assert {"Entries kept by id frequency", "Entries kept per field"} <= titles


def test_without_fine_tuning_the_trained_table_is_served_as_it_was_pruned(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, "pruned", fine_tune_epochs=0)
    table = trainer.table
    assert isinstance(table, MagnitudeTable)
    trainer.fit()
    assert [stage["stage"] for stage in trainer.stages] == ["train"]
    assert torch.equal(vectors_of(trainer.table), vectors_of(table.serving()))


def test_a_negative_number_of_epochs_is_refused(vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(ValueError, match="fine_tune_epochs must be at least 0, got -1"):
        plan("pruned", vocabularies, DIM, "50%", fine_tune_epochs=-1)

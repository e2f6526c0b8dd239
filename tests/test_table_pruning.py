"""Methods that prune entries of a full table: what is kept, that a budget holds, and that what went stays away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from training_helpers import counted, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, plan
from rectab.tables.deeplight import DeepLightTable, sparsity_after
from rectab.tables.magnitude import MagnitudeTable, SparseTable
from rectab.tables.pep import PEPTable
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


@pytest.mark.parametrize("method", ["pruned", "deeplight", "pep"])
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


# DeepLight.


def test_the_schedule_is_that_of_the_paper() -> None:
    """``S (1 - D^(k / U))``: a quarter of the way after ln(3/4) / ln(D) * U prunings, all of it in the end."""
    shares = [sparsity_after(n, 0.9, 0.99, 100) for n in (0, 100, 2862, 10**6)]
    assert shares == pytest.approx([0.0, 0.9 * 0.01, 0.9 * 0.25, 0.9], abs=1e-4)


def test_entries_go_while_it_trains_until_the_budget_holds_them(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(dataset, "deeplight", "20%", every=5, prune_epochs=2)
    table = trainer.table
    assert isinstance(table, DeepLightTable)
    left: list[float] = []
    prune = DeepLightTable.prune
    monkeypatch.setattr(DeepLightTable, "prune", lambda self, share: left.append(prune(self, share)) or left[-1])
    trainer.fit()
    assert [stage["stage"] for stage in trainer.stages] == ["warm up", "prune", "fine-tune"]
    assert trainer.stages[1]["epochs"] == 2, "no early stopping while entries go"
    assert left == sorted(left, reverse=True)
    share = table.capacity() / (table.store.num_rows * DIM)
    assert len(left) == 2 * 15 // 5
    assert left[0] > 0.5
    assert share < left[-1] < share + 0.03
    (told,) = (f for f in trainer.table.learned() if f.title == "Entries left over training")
    assert [value for (value,) in told.values["values"]] == pytest.approx(left, abs=1e-6)


def test_pruning_a_share_zeroes_the_smallest(vocabularies: list[Vocabulary]) -> None:
    table = plan("deeplight", vocabularies, DIM, "10%").build()
    assert isinstance(table, DeepLightTable)
    before = table.rows()
    assert table.prune(0.0) == 1.0
    assert table.prune(0.6) == pytest.approx(0.4, abs=1e-4)
    kept = table.rows() != 0
    assert torch.equal(table.rows()[kept], before[kept])
    assert before[kept].abs().min() > before[~kept].abs().max()
    without = plan("deeplight", vocabularies, DIM, None, density=0.25).build().serving()
    assert isinstance(without, SparseTable)
    assert without.config.num_entries == 0.25 * before.numel()


# PEP.


@pytest.mark.parametrize("thresholds", ["global", "dim", "vocabulary", "id", "id_dim"])
def test_entries_are_softened_by_their_thresholds(thresholds: str, vocabularies: list[Vocabulary]) -> None:
    table = plan("pep", vocabularies, DIM, None, options=TableOptions(init_std=0.1), thresholds=thresholds).build()
    assert isinstance(table, PEPTable)
    with torch.no_grad():
        table.level.fill_(-2.5)
        table.distance.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    d = table.distance.weight.detach()
    sizes = torch.tensor([v.num_embeddings for v in vocabularies])
    owner = torch.arange(4).repeat_interleave(sizes)
    s = -2.5 + (d[owner] if thresholds == "vocabulary" else d)
    v = table.store.weight.detach()
    expected = v.sign() * torch.relu(v.abs() - s.sigmoid())
    torch.testing.assert_close(vectors_of(table), expected)
    torch.testing.assert_close(table.rows(), expected)
    assert torch.equal(vectors_of(table.serving()), table.rows())
    assert 0.1 < float((expected != 0).float().mean()) < 0.9


def test_a_threshold_feels_the_loss_from_the_start_and_not_the_penalty(vocabularies: list[Vocabulary]) -> None:
    """At the authors' start of -150 the slope of the sigmoid is 0 in fp32, and only decay would move it."""
    assert float(torch.tensor(-150.0).sigmoid()) == 0.0
    table = plan("pep", vocabularies, DIM, "50%").build()
    assert isinstance(table, PEPTable)
    optimizer = RowAdam(table.row_stores(), lr=0.1, weight_decay=10.0, rules=table.rules())
    read = torch.arange(10)
    for _ in range(3):
        table(read, 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.catch_up()
    moved = table.distance.weight.detach()
    first = table.range_sizes[0]
    assert (moved[first : first + 10] > 0).all(), "a smaller vector lowers this loss, so thresholds rise"
    assert float(moved.max()) == pytest.approx(3 * 0.01, rel=0.1), "at a rate of their own"
    moved[first : first + 10] = 0
    assert torch.count_nonzero(moved) == 0


def test_a_lottery_ticket_starts_where_the_table_started(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(dataset, "pep", "20%", rise=0.4)
    table = trainer.table
    assert isinstance(table, PEPTable)
    before = table.store.weight.detach().clone()
    network = {name: p.clone() for name, p in trainer.model.state_dict().items() if not name.startswith("table.")}
    drawn: list[tuple[Tensor, bool]] = []
    restart = Trainer.restart

    def watched(self: Trainer, ticket: Any, model_state: Any = None) -> None:
        restart(self, ticket, model_state)
        now = self.model.state_dict()
        drawn.append((vectors_of(ticket), all(torch.equal(now[name], p) for name, p in network.items())))

    monkeypatch.setattr(Trainer, "restart", watched)
    trainer.fit()
    ((ticket, fresh),) = drawn
    kept = ticket != 0
    assert fresh, "the network is new as well"
    assert torch.equal(ticket[kept], before[kept])
    assert int(kept.sum()) == table.capacity()
    assert int(table.num_left) <= table.capacity(), "the search ended when few enough were left"
    assert trainer.stages[0]["epochs"] < 3
    assert [stage["stage"] for stage in trainer.stages] == ["search", "retrain"]
    with pytest.raises(ValueError, match="give rewind=False"):
        plan("pep", table.vocabularies, DIM, "50%", fine_tune_epochs=0)

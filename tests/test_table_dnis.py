"""DNIS: blocks, soft selection, bilevel search, pruning, both serving forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import counted, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, TableOptions, build_table, load_table, plan, save_table
from rectab.tables.base import EmbeddingTable
from rectab.tables.dnis import DNISConfig, DNISTable, SparseDNISTable, StructuredDNISTable
from rectab.tables.dnis.bilevel import AlphaStep, normalize_blocks, second_order_gradient, select_softly
from rectab.tables.dnis.blocks import assign_blocks, block_sizes
from rectab.tables.entries import largest_entries
from rectab.tables.findings import Finding
from rectab.training import TrainConfig, Trainer

DIM = 8


def learned_by(table: EmbeddingTable) -> dict[str, Finding]:
    return {finding.title: finding for finding in table.learned()}


def soft_table(vocabularies: list[Vocabulary], budget: str | int | None = None, **settings: Any) -> DNISTable:
    table = plan("dnis", vocabularies, DIM, budget, options=TableOptions(init_std=0.1), **settings).build()
    assert isinstance(table, DNISTable)
    return table.eval()


def all_ids(vocabularies: list[Vocabulary]) -> tuple[Tensor, Tensor]:
    """Every id of every vocabulary, and the vocabulary of each."""
    ids = torch.cat([torch.arange(v.num_embeddings) for v in vocabularies])
    return ids, torch.cat([torch.full((v.num_embeddings,), i) for i, v in enumerate(vocabularies)])


@torch.no_grad()
def vectors_of(table: EmbeddingTable, vocabularies: list[Vocabulary]) -> Tensor:
    """[N, D] of all ids."""
    return table(*all_ids(vocabularies))


# Soft selection.


def test_a_selection_of_ones_is_the_plain_table(vocabularies: list[Vocabulary]) -> None:
    table = soft_table(vocabularies)
    assert torch.equal(vectors_of(table, vocabularies), table.store.weight.detach())


def test_a_block_selected_away_gives_zeros_and_trains_nothing(vocabularies: list[Vocabulary]) -> None:
    table = plan("dnis", vocabularies, DIM, None, options=TableOptions(gradient="dense")).build()
    assert isinstance(table, DNISTable)
    with torch.no_grad():
        table.alpha[2] = 0.0
    ids, owner = all_ids(vocabularies)
    vectors = table(ids, owner)
    away = table.block == 2
    assert torch.count_nonzero(vectors[away]) == 0
    (vectors * torch.randn_like(vectors)).sum().backward()
    gradient = table.store.weight.grad
    assert gradient is not None
    assert torch.count_nonzero(gradient[away]) == 0
    assert torch.count_nonzero(gradient[~away]) > 0


# Blocks.


def test_blocks_follow_frequency_whatever_the_order_of_ids() -> None:
    rng = np.random.default_rng(0)
    counts = [rng.integers(0, 1000, 300), rng.integers(0, 50, 40)]
    vocabularies = [Vocabulary(n, len(c), counts=c) for n, c in zip("ab", counts, strict=True)]
    shares = (0.1, 0.2, 0.2, 0.2, 0.3)
    blocks = assign_blocks(vocabularies, shares)
    assert torch.bincount(blocks.int()).tolist() == block_sizes(340, shares) == [34, 68, 68, 68, 102]
    flat = torch.from_numpy(np.concatenate(counts))
    for block in range(4):
        assert flat[blocks == block].min() >= flat[blocks == block + 1].max()


def test_ties_go_to_the_lower_id() -> None:
    tied = [Vocabulary("a", 10, counts=np.full(10, 7))]
    assert assign_blocks(tied, (0.5, 0.5)).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("num_ids", [1, 2, 7, 1000, 12345])
def test_block_sizes_sum_to_all_ids(num_ids: int) -> None:
    sizes = block_sizes(num_ids, (0.1, 0.2, 0.2, 0.2, 0.3))
    assert sum(sizes) == num_ids
    assert min(sizes) >= 0


def test_blocks_survive_a_file_that_has_no_counts(vocabularies: list[Vocabulary], tmp_path) -> None:
    table = soft_table(vocabularies)
    save_table(table, tmp_path / "table.safetensors")
    loaded = load_table(tmp_path / "table.safetensors")
    assert isinstance(loaded, DNISTable)
    assert loaded.block.dtype == torch.uint8
    assert torch.equal(loaded.block, table.block)
    assert table.block.max() == 4


def test_without_counts_there_is_no_plan_and_no_training() -> None:
    uncounted = [Vocabulary("a", 100)]
    with pytest.raises(ValueError, match=r"needs training counts.*'a'"):
        plan("dnis", uncounted, DIM, "50%")
    with pytest.raises(ValueError, match="no training counts"):
        build_table("dnis", uncounted, DIM, DNISConfig()).train_with(SimpleNamespace())  # type: ignore[arg-type]


def test_few_counted_ids_may_all_lie_in_the_first_block() -> None:
    table = build_table("dnis", [Vocabulary("a", 20, counts=np.arange(20))], DIM, DNISConfig(blocks=(0.98, 0.02)))
    stages: list[str] = []

    def run(stage: str, **settings: Any) -> None:
        stages.append(stage)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        table.train_with(SimpleNamespace(run=run))  # type: ignore[arg-type]
    assert stages == ["warm start"]


# One step of the selection.


def test_gradients_have_mean_size_one_in_every_block_that_is_present() -> None:
    gradient = torch.randn(4, DIM) * torch.tensor([1.0, 1e-3, 0.0, 1e3]).unsqueeze(1)
    sizes = normalize_blocks(gradient).abs().mean(1)
    torch.testing.assert_close(sizes, torch.tensor([1.0, 1.0, 0.0, 1.0]), rtol=1e-4, atol=1e-4)


def test_selection_stays_between_zero_and_one() -> None:
    alpha = torch.rand(5, DIM)
    for seed in range(50):
        gradient = torch.randn(5, DIM, generator=torch.Generator().manual_seed(seed))
        select_softly(alpha, gradient, lr=0.3, l1=0.1)
        assert alpha.min() >= 0
        assert alpha.max() <= 1


def test_absent_blocks_do_not_collapse_under_l1() -> None:
    """With L1 in the loss, as the authors have it, a block without a gradient normalises to the penalty: in 100 steps
    of 0.01 its selection is 0."""
    alpha = torch.ones(2, DIM)
    gradient = torch.zeros(2, DIM)
    gradient[0] = torch.linspace(-1, 1, DIM)
    for _ in range(100):
        select_softly(alpha, gradient, lr=0.01, l1=0.01)
    assert torch.equal(alpha[1], torch.ones(DIM))
    assert alpha[0, -1] == 0
    authors = torch.ones(2, DIM)
    for _ in range(101):
        authors = (authors - 0.01 * normalize_blocks(gradient + 1e-5)).clamp(0, 1)
    assert torch.count_nonzero(authors[1]) == 0, "what this test guards against"


def test_l1_pulls_in_units_of_the_gradient() -> None:
    alpha = torch.full((1, 2), 0.5)
    select_softly(alpha, torch.tensor([[3.0, -3.0]]), lr=0.1, l1=0.5)
    torch.testing.assert_close(alpha, torch.tensor([[0.35, 0.55]]))


class Toy:
    """A quadratic loss of the vectors of some ids, other ids and targets in training and in validation."""

    def __init__(self, table: DNISTable) -> None:
        self.table = table
        generator = torch.Generator().manual_seed(0)
        size = table.store.num_rows
        self.targets = {split: torch.randn(size, DIM, generator=generator) for split in ("train", "search")}
        # Some ids are in both, some in one only, some twice.
        self.ids = {"train": torch.arange(size - 3).repeat(2), "search": torch.arange(3, size)}

    def loss(self, split: str) -> Tensor:
        ids = self.ids[split]
        return (self.table(ids, 0) - self.targets[split][ids]).pow(2).sum(1).mean() * 3

    def nested(self, alpha: Tensor, inner_lr: float) -> Tensor:
        """The validation loss after the inner step, written out."""
        weight = self.table.store.weight.detach().clone().requires_grad_()
        rows = self.table.block.int()

        def loss(w: Tensor, split: str) -> Tensor:
            return (w * alpha[rows] - self.targets[split])[self.ids[split]].pow(2).sum(1).mean() * 3

        (gradient,) = torch.autograd.grad(loss(weight, "train"), [weight], create_graph=True)
        return loss(weight - inner_lr * gradient, "search")


@pytest.mark.parametrize("gradient", ["row", "dense"])
def test_second_order_equals_finite_differences_of_the_nested_problem(gradient: Any) -> None:
    vocabulary = Vocabulary("a", 12, counts=np.arange(12))
    options = TableOptions(gradient=gradient, init_std=1.0)
    table = plan("dnis", [vocabulary], DIM, None, options=options, blocks=(0.25, 0.75)).build()
    assert isinstance(table, DNISTable)
    with torch.no_grad():
        table.alpha.copy_(torch.rand(2, DIM, generator=torch.Generator().manual_seed(1)))
    toy, inner_lr = Toy(table), 0.7
    before = table.store.weight.detach().clone()
    found = second_order_gradient(table, toy, "train", "search", inner_lr)  # type: ignore[arg-type]
    assert torch.equal(table.store.weight, before), "the embeddings are put back to the bit"
    assert not table.store.pending
    assert table.alpha.grad is None
    numeric = torch.zeros(2, DIM)
    with torch.no_grad():
        centre = table.alpha.detach().clone()
    for index in range(numeric.numel()):
        step = torch.zeros(numeric.numel())
        step[index] = 1e-2
        ends = [toy.nested(centre + sign * step.view_as(centre), inner_lr).item() for sign in (1, -1)]
        numeric.view(-1)[index] = (ends[0] - ends[1]) / 2e-2
    torch.testing.assert_close(found, numeric, rtol=2e-2, atol=2e-2)
    (first,) = torch.autograd.grad(toy.loss("search"), [table.alpha])
    assert (found - first).abs().max() > 0.1, "the second order matters here"
    still = second_order_gradient(table, toy, "train", "search", 0.0)  # type: ignore[arg-type]
    torch.testing.assert_close(still, first)


# Pruning and serving.


def reference(table: DNISTable, served: EmbeddingTable, vocabularies: list[Vocabulary]) -> Tensor:
    """[N, D]: the merged table with zeros where ``served`` has zeros."""
    return table.merged() * (vectors_of(served, vocabularies) != 0)


@pytest.mark.parametrize("form", ["structured", "sparse"])
@pytest.mark.parametrize("budget", [None, "75%", "30%", "10%", "2%"])
def test_served_vectors_are_the_merged_ones_or_zero(
    form: str, budget: str | None, vocabularies: list[Vocabulary], tmp_path
) -> None:
    table = soft_table(vocabularies, budget, form=form)
    with torch.no_grad():
        table.alpha.copy_(torch.rand(5, DIM, generator=torch.Generator().manual_seed(2)))
        table.alpha[3, ::2] = 0.0
    served = table.serving()
    assert isinstance(served, StructuredDNISTable if form == "structured" else SparseDNISTable)
    vectors = vectors_of(served, vocabularies)
    assert vectors.any()
    assert torch.equal(vectors, reference(table, served, vocabularies))
    if budget is None:
        assert torch.equal(vectors, vectors_of(table, vocabularies)), "merging changes no output"
    else:
        assert served.ledger().bytes <= (table.config.budget_bytes or 0)
    save_table(served, tmp_path / "served.safetensors")
    assert torch.equal(vectors_of(load_table(tmp_path / "served.safetensors"), vocabularies), vectors)
    with pytest.raises(IndexError, match="outside vocabulary"):
        served(torch.tensor([3]), 2)


def test_sparse_keeps_exactly_the_largest_entries(vocabularies: list[Vocabulary]) -> None:
    table = soft_table(vocabularies, "30%", form="sparse")
    served = table.serving()
    assert isinstance(served, SparseDNISTable)
    size = table.merged().abs().flatten()
    kept = vectors_of(served, vocabularies).flatten() != 0
    assert int(kept.sum()) == served.config.num_entries
    assert size[kept].min() >= size[~kept].max()


def test_ties_are_cut_at_the_same_place_every_time(vocabularies: list[Vocabulary]) -> None:
    table = soft_table(vocabularies)
    with torch.no_grad():
        table.store.weight.fill_(0.5)
    assert largest_entries(table.merged(), 1000).tolist() == list(range(1000))


def test_structured_keeps_whole_dimensions_of_blocks(vocabularies: list[Vocabulary]) -> None:
    table = soft_table(vocabularies, "40%", form="structured")
    kept = vectors_of(table.serving(), vocabularies) != 0
    for block in range(5):
        assert kept[table.block == block].any(0).equal(kept[table.block == block].all(0))


def test_structured_never_keeps_what_was_selected_away(vocabularies: list[Vocabulary]) -> None:
    table = soft_table(vocabularies, "60%", form="structured")
    with torch.no_grad():
        table.alpha[:, ::2] = 0.0
    served = table.serving()
    assert isinstance(served, StructuredDNISTable)
    assert all(column % 2 for columns in served.config.columns for column in columns)


def test_auto_takes_the_form_that_keeps_more(vocabularies: list[Vocabulary]) -> None:
    """Where the selection has pruned whole dimensions, an index of entries is a waste; in a table of noise it pays."""
    table = soft_table(vocabularies, "52%")
    assert isinstance(table.serving(), SparseDNISTable)
    with torch.no_grad():
        table.store.weight.copy_(table.store.weight.sign())
        table.alpha[:, ::2] = 0.0
    served = table.serving()
    assert isinstance(served, StructuredDNISTable)
    assert re.search(r"kept: structured 100.0%, sparse \d\d\.\d%", learned_by(served)["Soft selection"].note)
    assert torch.equal(vectors_of(served, vocabularies), vectors_of(table, vocabularies))


def test_an_entry_costs_less_than_in_an_ordinary_sparse_matrix(vocabularies: list[Vocabulary]) -> None:
    for budget in ("50%", "10%", "5%"):
        served = soft_table(vocabularies, budget, form="sparse").serving()
        assert isinstance(served, SparseDNISTable)
        rows, entries = served.num_ids, served.config.num_entries
        csr, coo = 4 * (2 * entries + rows + 1), 12 * entries
        assert served.ledger().bytes < 0.8 * min(csr, coo)


@pytest.mark.parametrize("form", ["structured", "sparse", "auto"])
def test_the_smallest_budget_of_every_form_serves(form: str, vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        plan("dnis", vocabularies, DIM, 1, form=form)
    smallest = caught.value.smallest_bytes
    assert smallest is not None
    assert soft_table(vocabularies, smallest, form=form).serving().ledger().bytes <= smallest


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        DNISConfig(blocks=(0.5, 0.6))
    with pytest.raises(ValueError, match="form"):
        DNISConfig(form="dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha_lr"):
        DNISConfig(alpha_lr=-1.0)


# In the trainer.


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(1500))


def trainer_of(dataset: PreparedDataset, budget: str | None, objective: Any = "logloss", **settings: Any) -> Trainer:
    planned = plan("dnis", dataset.schema.vocabularies, DIM, budget, options=TableOptions(seed=1), **settings)
    model = ModelConfig.from_options("mlp", "mean", {"hidden": (16,)}, {})
    config = TrainConfig(
        batch_size=256, max_epochs=2, lr=0.01, seed=1, precision="fp32", objective=objective, embedding_l2=1e-3
    )
    return Trainer(dataset, planned.build(), model, config, progress="off")


def table_of(trainer: Trainer) -> DNISTable:
    assert isinstance(trainer.table, DNISTable)
    return trainer.table


@pytest.mark.parametrize("form", ["structured", "sparse"])
@pytest.mark.parametrize(("objective", "second_order"), [("logloss", False), ("mse", True)])
def test_all_stages_end_in_a_small_table(
    dataset: PreparedDataset, form: str, objective: str, second_order: bool
) -> None:
    trainer = trainer_of(dataset, "40%", objective, form=form, second_order=second_order)
    soft = table_of(trainer)
    trainer.fit()
    assert [stage["stage"] for stage in trainer.stages] == ["warm start", "search", "fine-tune"]
    assert trainer.table.ledger().bytes <= (soft.config.budget_bytes or 0)
    learned = learned_by(trainer.table)
    alpha = torch.tensor(learned["Soft selection"].values["values"])
    assert alpha.shape == (5, DIM)
    assert 0 <= alpha.min() < alpha.max() <= 1
    assert f"Served as dnis.{form};" in learned["Soft selection"].note
    assert len(learned["Entries kept by id frequency"].values["values"]) == 10
    assert learned["Selection over the search"].values["steps"], "a curve over the search, not of its best weights only"


@pytest.mark.parametrize(("tuned", "more"), [(None, []), (1, ["fine-tune"])])
def test_autosrh_trains_under_its_selection_and_prunes_at_the_end(
    dataset: PreparedDataset, tuned: int | None, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(dataset, "40%", schedule="autosrh", alpha_lr=0.1, fine_tune_epochs=tuned)
    table, alphas = table_of(trainer), {}
    run = Trainer.run

    def watched(self: Trainer, stage: str, **options: Any) -> dict[str, float]:
        metrics = run(self, stage, **options)
        alphas[stage] = table.alpha.detach().clone()
        return metrics

    monkeypatch.setattr(Trainer, "run", watched)
    trainer.fit()
    assert [stage["stage"] for stage in trainer.stages] == ["warm start", "search", "retrain", *more]
    assert torch.equal(alphas["search"], alphas["retrain"])
    assert isinstance(trainer.table, SparseDNISTable)
    if not more:
        assert torch.equal(
            vectors_of(trainer.table, list(dataset.schema.vocabularies)),
            vectors_of(table.serving(), list(dataset.schema.vocabularies)),
        )
    with pytest.raises(ValueError, match="autosrh prunes single entries"):
        DNISConfig(schedule="autosrh", form="structured")


def test_fine_tuning_keeps_zeros_zero(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies = list(dataset.schema.vocabularies)
    pruned: list[Tensor] = []
    restart = Trainer.restart

    def watched(self: Trainer, table: Any, model_state: Any = None) -> None:
        pruned.append(vectors_of(table, vocabularies))
        restart(self, table, model_state)

    monkeypatch.setattr(Trainer, "restart", watched)
    trainer = trainer_of(dataset, "30%")
    trainer.fit()
    tuned = vectors_of(trainer.table, vocabularies)
    assert torch.count_nonzero(tuned[pruned[0] == 0]) == 0
    assert not torch.equal(tuned, pruned[0])


def test_the_selection_learns_from_validation_and_the_embeddings_from_training(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, None)
    table = table_of(trainer)
    state = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    table.alpha.requires_grad_(False)
    trainer.model.train()
    AlphaStep(table, trainer)(1)
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed <= {"table.alpha", "table.alpha_curve.values", "table.alpha_curve.state"}
    assert "table.alpha" in changed
    assert not table.store.pending
    assert trainer.model.training


def test_the_selection_reads_search_batches_only(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(dataset, None)
    table = table_of(trainer)
    read: list[str] = []
    for source in ("search_batches", "train_batches"):
        original = getattr(trainer, source)

        def watched(epoch: int, source: str = source, original: Any = original) -> Any:
            read.append(source)
            return original(epoch)

        monkeypatch.setattr(trainer, source, watched)
    AlphaStep(table, trainer)(1)
    assert read == ["search_batches"]


def test_training_steps_leave_the_selection_alone_and_the_search_leaves_the_network_alone(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(dataset, None, alpha_lr=0.0, l1=0.0, fine_tune_epochs=0)
    table = table_of(trainer)
    networks: list[dict[str, Tensor]] = []
    run = Trainer.run

    def watched(self: Trainer, stage: str, **options: Any) -> dict[str, float]:
        networks.append({n: p.detach().clone() for n, p in self.model.named_parameters() if not n.startswith("table.")})
        return run(self, stage, **options)

    monkeypatch.setattr(Trainer, "run", watched)
    trainer.fit()
    assert torch.equal(table.alpha, torch.ones_like(table.alpha))
    for name, parameter in trainer.model.named_parameters():
        if not name.startswith("table."):
            assert torch.equal(parameter, networks[1][name]), "frozen during the search"
            assert not torch.equal(parameter, networks[0][name]) or parameter.numel() == 1
    assert table.store.trained
    assert table.alpha.requires_grad


def test_a_run_is_repeatable(dataset: PreparedDataset) -> None:
    tables = []
    for _ in range(2):
        trainer = trainer_of(dataset, "40%")
        trainer.fit()
        tables.append(vectors_of(trainer.table, list(dataset.schema.vocabularies)))
    assert torch.equal(tables[0], tables[1])


def test_search_batches_go_on_over_epochs(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, None)
    step = AlphaStep(table_of(trainer), trainer)
    count = sum(1 for _ in trainer.search_batches(0))
    rows: Iterator[Any] = (next(step._search).labels for _ in range(2 * count))
    assert sum(len(labels) for labels in rows) == 2 * 250

"""OptEmbed: masks, surrogate gradient, supernet, search, budget, retraining."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, TableOptions, load_table, plan, save_table
from rectab.tables.optembed import CompactOptEmbedTable, OptEmbedConfig, OptEmbedTable
from rectab.tables.optembed.evolution import cross, evolve, mutate
from rectab.tables.optembed.masks import keep_above_zero, keep_leading, surrogate_slope
from rectab.tables.optembed.search import Fitness
from rectab.tables.optembed.sizing import Shape, Sizer, row_scales
from rectab.training import TrainConfig, Trainer

DIM = 8
VARIANTS: list[dict[str, Any]] = [
    {},
    {"pruned": "shared"},
    {"search_dims": False},
    {"search_rows": False},
    {"search_dims": False, "pruned": "shared"},
]


def supernet(vocabularies: list[Vocabulary], budget: str | None = None, **settings: Any) -> OptEmbedTable:
    table = plan("optembed", vocabularies, DIM, budget, options=TableOptions(init_std=0.1), **settings).build()
    assert isinstance(table, OptEmbedTable)
    return table.eval()


def all_ids(vocabularies: list[Vocabulary]) -> tuple[Tensor, Tensor]:
    """Every id of every vocabulary, and the vocabulary of each."""
    ids = torch.cat([torch.arange(v.num_embeddings) for v in vocabularies])
    return ids, torch.cat([torch.full((v.num_embeddings,), i) for i, v in enumerate(vocabularies)])


# Masks.


def test_dimension_masks_are_lower_triangular() -> None:
    masks = keep_leading(torch.arange(1, DIM + 1), DIM, torch.float32)
    assert torch.equal(masks, torch.ones(DIM, DIM).tril())


def test_the_step_keeps_above_zero_and_has_the_long_tailed_slope() -> None:
    x = torch.tensor([0.0, 0.2, -0.2, 0.4, -0.4, 0.7, -0.7, 1.0, -1.0, 1.1, -1.1], requires_grad=True)
    kept = keep_above_zero(x)
    assert kept.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    kept.sum().backward()
    expected = torch.tensor([2.0, 1.2, 1.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.0, 0.0])
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(surrogate_slope(x.detach()), expected)


def test_thresholds_prune_rows_of_their_vocabulary_only(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    ids, owner = all_ids(vocabularies)
    plain = table.store.weight.detach()
    with torch.no_grad():
        table.threshold.fill_(-1.0)
        assert torch.equal(table(ids, owner), plain)
        table.threshold[1] = float("inf")
        vectors = table(ids, owner)
    assert torch.count_nonzero(vectors[owner == 1]) == 0
    assert torch.equal(vectors[owner != 1], plain[owner != 1])


def test_a_row_whose_norm_equals_the_threshold_is_pruned(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    with torch.no_grad():
        table.store.weight[table.address(torch.tensor(7), torch.tensor(1))] = 0.25
        table.threshold[1] = 0.25 * DIM
        assert torch.count_nonzero(table(torch.tensor(7), 1)) == 0
        table.threshold[1] = 0.25 * DIM - 1e-3
        assert torch.count_nonzero(table(torch.tensor(7), 1)) == DIM


def test_a_pruned_row_feels_its_norm_and_the_threshold_feels_the_rows(vocabularies: list[Vocabulary]) -> None:
    table = plan("optembed", vocabularies, DIM, None, options=TableOptions(gradient="dense", init_std=0.01)).build()
    assert isinstance(table, OptEmbedTable)
    table.eval()
    with torch.no_grad():
        table.threshold.fill_(0.2)  # above every fresh row's norm, within the slope's reach
    vectors = table(torch.tensor([5]), 1)
    assert torch.count_nonzero(vectors) == 0
    # A loss that falls as the row's own direction is let through wants the row kept: a larger norm, a lower threshold.
    row = table.address(torch.tensor([5]), torch.tensor(1))
    (-(vectors * table.store.weight[row].detach()).sum()).backward()
    gradient = table.store.weight.grad
    assert gradient is not None
    assert table.threshold.grad is not None
    assert torch.equal(gradient[row].sign(), -table.store.weight[row].detach().sign())
    assert table.threshold.grad[1] > 0
    assert table.threshold.grad[[0, 2, 3]].count_nonzero() == 0


def test_raising_a_threshold_keeps_fewer_rows(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    counts = []
    for level in (0.0, 0.3, 0.6, 0.9):
        with torch.no_grad():
            table.threshold.fill_(level)
        counts.append(int((table.margins() > 0).sum()))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_the_push_has_the_gradient_of_the_paper(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies, alpha=0.3)
    with torch.no_grad():
        table.threshold.copy_(torch.tensor([0.0, 0.5, 1.0, -1.0]))
    table.threshold_push().backward()
    torch.testing.assert_close(table.threshold.grad, -0.3 * torch.exp(-table.threshold.detach()))


def test_thresholds_never_fall_below_zero(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.copy_(torch.tensor([-0.2, 0.0, 0.3, -1.0]))
    table.after_step(1, None)
    assert table.threshold.tolist() == pytest.approx([0.0, 0.0, 0.3, 0.0])
    assert table.threshold_curve.points()[1][0] == pytest.approx([0.0, 0.0, 0.3, 0.0])


def test_widths_are_drawn_per_sample_and_field_in_training_only(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    ids, columns = torch.ones(4000, 4, dtype=torch.int64), torch.arange(4)
    assert torch.equal(table(ids, columns), table(ids, columns))
    table.train()
    with torch.no_grad():
        widths = (table(ids, columns) != 0).sum(-1)
    assert widths.shape == (4000, 4)
    assert (widths[:, 0] != widths[:, 1]).any()
    shares = torch.bincount(widths.flatten(), minlength=DIM + 1) / widths.numel()
    assert shares[0] == 0, "at least one dimension is kept"
    assert (shares[1:] - 1 / DIM).abs().max() < 0.02


def test_the_norm_that_prunes_is_of_the_whole_row(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.fill_(0.3)
        before = table(*all_ids(vocabularies)).abs().sum(1) > 0
        table.widths.fill_(2)
        after = table(*all_ids(vocabularies)).abs().sum(1) > 0
    assert torch.equal(before, after)


# Serving form and budget.


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("budget", [None, "60%", "20%", "5%"])
def test_the_compact_table_equals_the_masked_one_to_the_bit(
    settings: dict[str, Any], budget: str | None, vocabularies: list[Vocabulary], tmp_path
) -> None:
    try:
        table = supernet(vocabularies, budget, **settings)
    except InfeasibleBudget:
        assert "search_rows" in settings, "only a table that keeps every row has a floor above 5 %"
        return
    with torch.no_grad():
        if table.config.search_rows:
            table.threshold.copy_(torch.tensor([0.4, 0.6, -1.0, 0.5]))
        if table.config.search_dims:
            table.widths.copy_(torch.tensor([3, 8, 1, 6]))
        compact = table.serving()
        ids, owner = all_ids(vocabularies)
        expected = table(ids, owner)
        assert torch.equal(compact(ids, owner), expected)
        columns = torch.arange(4)
        assert torch.equal(
            compact(torch.ones(3, 4, dtype=torch.int64), columns)[1], compact(torch.ones(4).long(), columns)
        )
    assert expected.any()
    if table.config.budget_bytes is not None:
        assert compact.ledger().bytes <= table.config.budget_bytes
    save_table(compact, tmp_path / "compact.safetensors")
    assert torch.equal(load_table(tmp_path / "compact.safetensors")(ids, owner), expected)
    with pytest.raises(IndexError, match="outside vocabulary"):
        compact(torch.tensor([3]), 2)
    with pytest.raises(IndexError, match="outside vocabulary"):
        compact(torch.tensor([-1]), 1)


def test_rows_are_counted_in_their_own_vocabulary(vocabularies: list[Vocabulary]) -> None:
    """The authors' field offsets and field sizes disagree, so rows at a boundary count for the neighbour."""
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.copy_(torch.tensor([-1.0, float("inf"), -1.0, float("inf")]))
    compact = table.serving()
    assert isinstance(compact, CompactOptEmbedTable)
    assert compact.config.num_rows == (2000, 0, 3, 0)
    assert compact.config.widths == (DIM, 0, DIM, 0)


def test_the_shift_is_a_quantile_of_margins(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies, "25%")
    margins = table.margins()
    sizer = Sizer(vocabularies, DIM, table.config, table.options, margins)
    wide, narrow = sizer.fit((8, 8, 8, 8)), sizer.fit((4, 4, 4, 4))
    kept_wide, kept_narrow = (margins > wide.shift), (margins > narrow.shift)
    assert kept_narrow.sum() > 1.8 * kept_wide.sum()
    assert margins[kept_wide].min() > margins[~kept_wide].max()
    assert wide.widths == (8, 8, 8, 8)


def test_a_scale_is_the_mean_norm_of_lookups_times_the_number_of_rows() -> None:
    counted = [Vocabulary("a", 2, counts=np.array([3, 1])), Vocabulary("b", 3), Vocabulary("c", 2)]
    counted.append(Vocabulary("d", 1, counts=np.array([0])))
    norms = torch.tensor([2.0, 6.0, 1.0, 2.0, 6.0, 0.0, 0.0, 5.0])
    assert row_scales(norms, counted).tolist() == [(2.0 * 3 + 6.0) / 4 * 2, 3.0 * 3, 1.0, 1.0]


def test_a_budget_does_not_empty_a_vocabulary_for_its_small_norms(vocabularies: list[Vocabulary]) -> None:
    """L2 can make the norms of a vocabulary a hundredth of the others'; a cut by norm alone took all its rows."""
    table = supernet(vocabularies, "25%", search_dims=False)
    first = 2000 + 5000 + 3
    with torch.no_grad():
        table.store.weight[first:].mul_(0.01)
    compact = table.serving()
    assert isinstance(compact, CompactOptEmbedTable)
    assert min(compact.config.num_rows) > 0
    assert compact.config.num_rows[2:] == (3, 150), "small vocabularies are cheap and serve as many lookups"


def test_without_a_budget_scales_change_nothing(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.fill_(0.5)
    norms = table.store.weight.abs().sum(-1)
    table.serving()
    assert torch.equal(table.margins(), norms - 0.5)


def test_masked_and_served_rows_agree_at_the_very_margin(vocabularies: list[Vocabulary]) -> None:
    """A cut between two rows is a float; both masks have to round on the same side of it."""
    table = supernet(vocabularies, "25%", search_dims=False)
    table.serving()
    ids, vocabulary = all_ids(vocabularies)
    margins = table.margins()
    with torch.no_grad():
        table.threshold.copy_(torch.tensor([0.1, 0.3, 0.2, 0.05]))
    margins = table.margins()
    for row in torch.randperm(len(margins), generator=torch.Generator().manual_seed(0))[:200].tolist():
        table.shift.fill_(margins[row])
        assert torch.equal(table(ids, vocabulary).abs().sum(1) > 0, margins > table.shift)


def test_thresholds_of_every_field_of_a_batch(vocabularies: list[Vocabulary]) -> None:
    """[B, F] ids against [F] vocabularies: a field feels its own threshold only."""
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.copy_(torch.tensor([-1.0, float("inf"), -1.0, float("inf")]))
    vectors = table(torch.tensor([[5, 6, 1, 7], [8, 9, 2, 10]]), torch.arange(4))
    assert (vectors.abs().sum(-1) > 0).tolist() == [[True, False, True, False]] * 2


def test_thresholds_that_prune_everything_say_what_to_change(vocabularies: list[Vocabulary]) -> None:
    table = supernet(vocabularies)
    with torch.no_grad():
        table.threshold.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"pruned every row; lower threshold_lr .* or alpha"):
        table.serving()


def test_shared_vectors_without_pruned_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="needs search_rows"):
        OptEmbedConfig(search_rows=False, pruned="shared")


def test_the_search_follows_the_seed_of_the_run(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def recorded(*arguments: Any, seed: int, **settings: Any) -> Any:
        seeds.append(seed)
        return evolve(*arguments, seed=seed, **settings)

    monkeypatch.setattr("rectab.tables.optembed.table.evolve", recorded)
    trained(dataset, "40%", generations=1)
    trained(dataset, "40%", generations=1, seed=5)
    assert seeds == [1, 6]


def test_curves_go_on_after_the_best_evaluation(dataset: PreparedDataset) -> None:
    """The best weights are loaded at the end of a stage; what thresholds did after them is still worth seeing."""
    planned = plan("optembed", dataset.schema.vocabularies, DIM, search_dims=False, threshold_lr=0.05)
    table = planned.build()
    assert isinstance(table, OptEmbedTable)
    model = ModelConfig.from_options("mlp", "none", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=256, max_epochs=3, lr=0.01, precision="fp32", min_improvement=10.0, patience=99)
    trainer = Trainer(dataset, table, model, config, progress="off")
    table.train_supernet(trainer)
    best = next(point["step"] for point in reversed(trainer.history) if point["best"])
    assert table.threshold_curve.points()[0][-1] > best + 1
    assert trainer.history[-1]["step"] > best


def test_a_loaded_serving_form_can_be_trained(dataset: PreparedDataset) -> None:
    table = plan("optembed", dataset.schema.vocabularies, DIM, "40%").build().serving()
    model = ModelConfig.from_options("mlp", "none", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=256, max_epochs=1, precision="fp32")
    assert Trainer(dataset, table, model, config, progress="off").fit() is table


def test_widths_that_leave_no_room_for_a_row_are_narrowed(vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        plan("optembed", vocabularies, DIM, 1)
    smallest = caught.value.smallest_bytes
    assert smallest is not None
    table = supernet(vocabularies, f"{smallest}B")
    assert table.serving().ledger().bytes <= smallest
    assert min(table.widths.tolist()) == 1


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="search_rows or search_dims"):
        OptEmbedConfig(search_rows=False, search_dims=False)
    with pytest.raises(ValueError, match="pruned"):
        OptEmbedConfig(pruned="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mutation_probability"):
        OptEmbedConfig(mutation_probability=0.0)


# Evolution.


def closeness(genomes: Any) -> list[float]:
    """Fitness with a known best, (5, 2, 7, 1, 3, 6)."""
    return [-float(sum(abs(a - b) for a, b in zip(g, (5, 2, 7, 1, 3, 6), strict=True))) for g in genomes]


def test_evolution_never_forgets_its_best() -> None:
    """The authors' best candidate is an alias that mutation edits afterwards, and nothing survives a generation."""
    found = evolve(6, 8, closeness, generations=40, patience=40, seed=3)
    assert found.history == sorted(found.history)
    assert closeness([found.best])[0] == found.fitness[found.best] == found.history[-1]
    assert found.history[-1] > found.history[0]
    assert all(1 <= gene <= 8 for genome in found.fitness for gene in genome)


def test_evolution_is_deterministic_and_evaluates_nothing_twice() -> None:
    seen: list[Any] = []

    def counted(genomes: Any) -> list[float]:
        seen.extend(genomes)
        return closeness(genomes)

    first = evolve(6, 8, counted, seed=5)
    assert len(seen) == len(set(seen)) == len(first.fitness)
    assert evolve(6, 8, closeness, seed=5).history == first.history
    assert evolve(6, 8, closeness, seed=6).history != first.history


def test_evolution_evaluates_only_what_repair_returns() -> None:
    found = evolve(6, 8, closeness, repair=lambda g: tuple(min(x, 4) for x in g), seed=0)
    assert max(gene for genome in found.fitness for gene in genome) == 4


def test_evolution_stops_when_nothing_improves() -> None:
    assert len(evolve(3, 8, lambda genomes: [0.0] * len(genomes), patience=4).history) == 5


def test_crossover_cuts_within_the_genome_and_mutation_changes_a_copy() -> None:
    """The authors draw the cut from 1..D: with D = 64 and 24 fields, 64 % of their crossovers copy a parent."""
    source, first, second = random.Random(0), (1,) * 5, (2,) * 5
    for _ in range(200):
        child = cross(source, first, second)
        assert child[0] == 1
        assert child[-1] == 2
        mutate(source, first, 8, 0.5)
    assert first == (1,) * 5
    assert cross(source, (1,), (2,)) == (2,)


# In the trainer.


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(1500)


def trained(dataset: PreparedDataset, budget: str | None, **settings: Any) -> tuple[Trainer, OptEmbedTable]:
    settings = {"generations": 3, "population": 6, "threshold_lr": 0.05, "alpha": 1e-3, **settings}
    planned = plan("optembed", dataset.schema.vocabularies, DIM, budget, options=TableOptions(seed=1), **settings)
    table = planned.build()
    assert isinstance(table, OptEmbedTable)
    model = ModelConfig.from_options("mlp", "mean", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=256, max_epochs=2, lr=0.01, seed=1, precision="fp32")
    trainer = Trainer(dataset, table, model, config, progress="off")
    trainer.fit()
    return trainer, table


@pytest.mark.parametrize(
    ("budget", "settings"),
    [
        (None, {}),
        ("40%", {}),
        ("40%", {"pruned": "shared"}),
        ("40%", {"search_dims": False}),
        ("60%", {"search_rows": False}),
    ],
)
def test_all_stages_end_in_a_small_table(
    dataset: PreparedDataset, budget: str | None, settings: dict[str, Any]
) -> None:
    trainer, supernet_table = trained(dataset, budget, **settings)
    table = trainer.table
    assert isinstance(table, CompactOptEmbedTable)
    names = [stage["stage"] for stage in trainer.stages]
    assert names == (
        ["supernet", "retrain"] if settings.get("search_dims") is False else ["supernet", "evolution", "retrain"]
    )
    if supernet_table.config.budget_bytes is not None:
        assert table.serving().ledger().bytes <= supernet_table.config.budget_bytes
    learned = {finding.title: finding.values for finding in table.learned()}
    assert learned["Dimensions per field"]["names"] == ["user", "item", "genre"]
    assert learned["Rows kept per field"]["values"][0] == pytest.approx(table.config.num_rows[0] / 60)
    for width, rows in zip(learned["Dimensions per field"]["values"], table.config.num_rows, strict=True):
        assert bool(width) == bool(rows)
    if supernet_table.config.search_rows:
        assert any(learned["Thresholds over training"]["values"][-1])


def test_retraining_starts_from_the_supernets_initial_rows(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Tensor] = []
    restart = Trainer.restart

    def watched(self: Trainer, table: Any, model_state: Any = None) -> None:
        assert model_state is None, "the network starts anew as well"
        started.append(table(torch.arange(60), 0).detach().clone())
        restart(self, table, model_state)

    monkeypatch.setattr(Trainer, "restart", watched)
    _, table = trained(dataset, "40%")
    fresh = table.initial().store.weight.detach()[:60]
    mask = (table.margins() > table.shift)[:60].unsqueeze(1) * keep_leading(table.widths[0], DIM, torch.float32)
    assert torch.equal(started[0], fresh * mask)
    assert not torch.equal(fresh, table.store.weight.detach()[:60])


def test_recorded_fitness_is_what_the_shape_scores(dataset: PreparedDataset) -> None:
    planned = plan("optembed", dataset.schema.vocabularies, DIM, "50%", generations=2, population=4)
    table = planned.build()
    assert isinstance(table, OptEmbedTable)
    model = ModelConfig.from_options("mlp", "none", {"hidden": (16,)}, {})
    trainer = Trainer(
        dataset, table, model, TrainConfig(batch_size=256, max_epochs=1, precision="fp32"), progress="off"
    )
    table.train_supernet(trainer)
    search = table.search_shape(trainer)
    best = Shape(tuple(table.widths.tolist()), float(table.shift))
    fitness = Fitness(trainer)
    again = fitness([best], table.enter)[0]
    assert again == pytest.approx(search["best_fitness"][-1], abs=1e-9)
    assert again == pytest.approx(trainer.evaluate("search")["auc"], abs=1e-6)
    together = fitness([best, Shape((1, 1, 1), 0.0)], table.enter)
    assert together[0] == again, "candidates evaluated together do not disturb one another"


def test_ratings_are_searched_by_squared_error(dataset: PreparedDataset) -> None:
    planned = plan("optembed", dataset.schema.vocabularies, DIM, "50%", generations=2, population=4)
    model = ModelConfig.from_options("mlp", "none", {"hidden": (16,)}, {})
    config = TrainConfig(batch_size=256, max_epochs=1, precision="fp32", objective="mse")
    trainer = Trainer(dataset, planned.build(), model, config, progress="off")
    trainer.fit()
    learned = {finding.title: finding.values for finding in trainer.table.learned()}
    assert learned["Search for dimensions"]["values"][-1][0] < 0


def test_a_run_is_repeatable(dataset: PreparedDataset) -> None:
    first, second = (trained(dataset, "40%")[0].table for _ in range(2))
    assert first.config == second.config
    ids = torch.arange(60)
    assert torch.equal(first(ids, 0), second(ids, 0))


def test_hashed_vocabularies_are_refused(vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(ValueError, match="hashed"):
        OptEmbedTable([replace(vocabularies[0], hashed=True)], DIM, OptEmbedConfig())

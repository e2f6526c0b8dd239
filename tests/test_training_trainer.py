"""Training: it learns, stops, restores the best weights, means what its settings say, and fails clearly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_helpers import tiny_dataset

from rectab.batch import Batch
from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.sweep.environment import describe_environment
from rectab.tables import TableOptions, plan
from rectab.tables.base import EmbeddingTable
from rectab.training import (
    RunResult,
    TrainConfig,
    Trainer,
    TrainingError,
    evaluate,
    load_model,
    predict,
    train_once,
)
from rectab.training.precision import device_of

QUICK = TrainConfig(
    batch_size=128, lr=0.02, max_epochs=3, evaluations_per_epoch=2, precision="fp32", evaluation_batch_size=300
)
MODEL = ModelConfig.from_options("deepfm", "din", {"hidden": (16, 8), "dropout": 0.1}, {"hidden": (8,)})


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset()


def trainer_of(
    dataset: PreparedDataset, config: TrainConfig = QUICK, model: ModelConfig = MODEL, **options: Any
) -> Trainer:
    table = plan("full", dataset.schema.vocabularies, 4, options=TableOptions(gradient=config.gradient)).build()
    return Trainer(dataset, table, model, config, progress="off", **options)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_learns_and_reports_all_that_is_promised(dataset: PreparedDataset, tmp_path: Any) -> None:
    options = {"hidden": (16, 8), "history": {"hidden": (8,)}}
    result = train_once(
        dataset,
        method="unified",
        budget="50%",
        model="deepfm",
        history="din",
        model_options=options,
        embedding_dim=4,
        train_config=replace(QUICK, max_epochs=6, patience=99),
        out_dir=tmp_path / "run",
        progress="off",
    )
    assert result.test is not None
    assert result.test["auc"] > 0.68
    assert set(result.test) == {"auc", "gauc", "logloss", "calibration", "expected_calibration_error"}
    assert set(result.slices) == {"head", "torso", "tail", "unseen"}
    assert sum(part["rows"] for part in result.slices.values()) == len(dataset.test)
    assert 0.9 * result.budget_bytes < result.serving_bytes <= result.budget_bytes
    assert result.training_bytes > result.serving_bytes
    assert result.samples == 6 * len(dataset.train)
    assert result.peak_memory_bytes > 0
    assert len(result.history) == 12
    assert result.valid["auc"] == max(record["auc"] for record in result.history)
    written = RunResult.from_json(json.loads((tmp_path / "run" / "result.json").read_text()))
    assert written.to_json() == json.loads(json.dumps(result.to_json()))
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert evaluate(model, dataset.test) == pytest.approx(result.test, rel=1e-5)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "model.safetensors",
        "result.json",
        "test_scores.npz",
    ]


def test_a_seed_gives_the_same_run(dataset: PreparedDataset) -> None:
    runs = []
    for seed in (3, 3, 4):
        trainer = trainer_of(dataset, replace(QUICK, seed=seed, max_epochs=1))
        trainer.fit()
        runs.append(weights_of(trainer.model))
    assert_equal_weights(runs[0], runs[1])
    assert not torch.equal(runs[0]["table.store.weight"], runs[2]["table.store.weight"])


def test_training_that_only_chooses_never_reads_test(dataset: PreparedDataset) -> None:
    blind = replace(dataset, test=None)  # type: ignore[arg-type]
    result = train_once(
        blind,
        method="full",
        embedding_dim=4,
        train_config=replace(QUICK, max_epochs=1),
        read_test=False,
        progress="off",
    )
    assert result.test is None


def test_stops_early_and_restores_the_best_weights(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, max_epochs=60, patience=3, lr=0.05, lr_patience=0))
    metrics = trainer.run("train")
    assert trainer.stages[0]["epochs"] < 60
    aucs = [record["auc"] for record in trainer.history]
    assert int(np.argmax(aucs)) == len(aucs) - 4  # three evaluations without improvement after the best
    assert metrics["auc"] == max(aucs)
    assert trainer.evaluate()["auc"] == max(aucs)


def test_learning_rate_is_cut_on_a_plateau_of_every_part(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, max_epochs=30, patience=5, lr=0.05, lr_patience=2, lr_factor=0.1))
    trainer.run("train")
    rates = [record["lr"] for record in trainer.history]
    assert rates[0] == 0.05
    assert any(rate == pytest.approx(0.005) for rate in rates)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])  # RowAdagrad keeps one sum a row, not one an element
def test_row_and_dense_gradients_train_alike_under_full_l2(dataset: PreparedDataset, optimizer: str) -> None:
    found = {}
    for gradient in ("dense", "row"):
        config = replace(QUICK, gradient=gradient, embedding_l2=0.01, optimizer=optimizer, max_epochs=1, lr=1e-3)
        trainer = trainer_of(dataset, config, ModelConfig.from_options("fm"))
        trainer.run("train")
        found[gradient] = trainer.table.store.weight.detach().clone()
    torch.testing.assert_close(found["row"], found["dense"], rtol=1e-3, atol=1e-5)


def test_embedding_l2_is_half_the_squared_norm_of_the_whole_table(dataset: PreparedDataset) -> None:
    config = replace(QUICK, gradient="dense", optimizer="sgd", lr=0.5, embedding_l2=0.1, batch_size=3000, max_epochs=1)
    trainer = trainer_of(dataset, config, ModelConfig.from_options("lr"))
    weight = trainer.table.store.weight
    start = weight.detach().clone()
    batch = dataset.train.batch(np.arange(3000))
    loss = trainer.loss(batch) + 0.1 / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, [weight])
    trainer.run("train")
    torch.testing.assert_close(trainer.table.store.weight.detach(), start - 0.5 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", ["row", "dense", "sparse"])
def test_every_gradient_layout_learns(dataset: PreparedDataset, gradient: str) -> None:
    trainer = trainer_of(dataset, replace(QUICK, gradient=gradient))
    assert trainer.run("train")["auc"] > 0.65
    assert trainer.stages[0]["table_training_bytes"] > trainer.table.ledger().bytes


def test_bf16_learns_what_fp32_learns_and_evaluates_in_fp32(dataset: PreparedDataset) -> None:
    aucs = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(dataset, replace(QUICK, precision=precision))
        aucs[precision] = trainer.run("train")["auc"]
        assert trainer.precision.startswith(precision)
        assert len(np.unique(predict(trainer.model, dataset.valid))) > 900
    assert aucs["bf16"] == pytest.approx(aucs["fp32"], abs=0.02)


def test_gradients_are_clipped_together(dataset: PreparedDataset) -> None:
    config = replace(QUICK, optimizer="sgd", lr=1.0, clip_norm=1e-3, batch_size=3000, max_epochs=1)
    trainer = trainer_of(dataset, config, ModelConfig.from_options("deepfm", interaction_options={"batch_norm": False}))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.run("train")
    moved = (
        sum(float((p.detach() - q).square().sum()) for p, q in zip(trainer.model.parameters(), before, strict=True))
        ** 0.5
    )
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_divergence_stops_with_a_clear_error(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, optimizer="sgd", lr=1e30))
    with pytest.raises(TrainingError, match=r"at step \d+ of stage 'train' .*lr 1e\+30.*lower lr"):
        trainer.run("train")


def test_rating_prediction(dataset: PreparedDataset) -> None:
    config = replace(QUICK, objective="mse")
    assert config.monitor == "mse"
    trainer = trainer_of(dataset, config)
    metrics = trainer.run("train")
    assert set(metrics) == {"mse", "rmse", "mae"}
    assert metrics["mse"] < float(np.var(dataset.valid.labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"optimizer": "lamb"}, "optimizer must be one of"),
        ({"gradient": "sparse", "embedding_l2": 0.1}, "gradient 'row' or 'dense'"),
        ({"learning_rate": 0.1}, "unknown key 'learning_rate'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_json(settings)


def test_settings_round_trip_through_json() -> None:
    assert TrainConfig.from_json(json.loads(json.dumps(QUICK.to_json()))) == QUICK


def test_ratings_are_not_trained_as_clicks(dataset: PreparedDataset) -> None:
    train = replace(dataset.train, _labels=dataset.train.labels * 4 + 1)
    with pytest.raises(ValueError, match="objective = 'mse'"):
        trainer_of(replace(dataset, train=train))


# What tables of several stages ask of the trainer.


def test_nothing_is_selected_on_what_it_learned_from(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, split_validation=True)
    searched = _labels(trainer.search_batches(0))
    assert len(searched) + len(trainer.valid) == len(dataset.valid)
    again, other = _labels(trainer.search_batches(0)), _labels(trainer.search_batches(1))
    assert torch.equal(searched, again)
    assert not torch.equal(searched, other)
    assert trainer.evaluate("search") != trainer.evaluate("valid")
    with pytest.raises(ValueError, match="learns nothing from validation"):
        trainer_of(dataset).search_batches(0)


def _labels(batches: Iterator[Batch]) -> Tensor:
    return torch.cat([batch.labels for batch in batches if batch.labels is not None])


def test_a_stage_freezes_adds_loss_terms_and_steps_extra_optimizers(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, max_epochs=1))
    trainer.table.threshold = nn.Parameter(torch.zeros(3))
    frozen = trainer.model.dense_parameters()
    before, rows = [p.detach().clone() for p in frozen], trainer.table.store.weight.detach().clone()
    steps: list[int] = []
    threshold = trainer.table.threshold
    trainer.run(
        "search",
        loss_terms=lambda: torch.exp(-threshold).sum(),
        frozen=frozen,
        extra_optimizers=[torch.optim.SGD([threshold], lr=0.1)],
        after_step=steps.append,
    )
    assert all(torch.equal(p, q) for p, q in zip(frozen, before, strict=True))
    assert all(p.requires_grad for p in frozen)
    assert not torch.equal(trainer.table.store.weight, rows)
    assert (threshold > 0).all()
    assert steps == list(range(1, 25))


def test_restart_gives_the_weights_that_the_run_started_with(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, max_epochs=1))
    initial = weights_of(trainer.model)
    trainer.run("first")
    trained = weights_of(trainer.model)
    trainer.restart(trainer.table)
    assert_equal_weights(_outside(weights_of(trainer.model)), _outside(initial))
    trainer.restart(trainer.table, trained)
    assert_equal_weights(weights_of(trainer.model), trained)
    with pytest.raises(ValueError, match="does not fit"):
        trainer.restart(trainer.table, {"interaction.other": torch.zeros(1)})


def _outside(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("table.")}


def test_a_table_trains_in_its_own_stages(dataset: PreparedDataset) -> None:
    trainer = trainer_of(dataset, replace(QUICK, max_epochs=1))

    def train_with(runner: Trainer) -> EmbeddingTable:
        runner.run("warm")
        runner.restart(plan("unified", dataset.schema.vocabularies, 4, "50%").build())
        runner.run("fine", max_epochs=2)
        return runner.table

    trainer.table.train_with = train_with  # type: ignore[method-assign, assignment]
    table = trainer.fit()
    assert table.method == "unified"
    assert [stage["stage"] for stage in trainer.stages] == ["warm", "fine"]
    assert {record["stage"] for record in trainer.history} == {"warm", "fine"}
    assert trainer.stages[1]["samples"] == 2 * trainer.stages[0]["samples"]


def test_a_result_names_the_device_that_held_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the GPU that torch happens to see while the run is on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {torch.device(device).index}")
    result = train_once(
        tiny_dataset(60), method="full", model="lr", train_config=TrainConfig(max_epochs=1), progress="off"
    )
    assert result.device == "cpu"
    assert "cuda" not in json.dumps(describe_environment(1))
    assert "GPU" not in json.dumps(describe_environment(1))
    on_gpu = SimpleNamespace(parameters=lambda: [SimpleNamespace(device=torch.device("cuda", 1))], buffers=list)
    assert device_of(on_gpu) == "GPU 1"  # type: ignore[arg-type]

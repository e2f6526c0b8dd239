"""Tuning: the same trials for a seed, also after a kill; what is given stays; and the rule for who gives nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_helpers import tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.training import TrainConfig, TrainingError, tuning
from rectab.training.defaults import Facts, default_settings, settings_of
from rectab.training.tuning import TRIALS_FILE, tune

pytest.importorskip("optuna", reason="optuna is not installed")


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(rows=400)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every training; the AUC is a function of learning rate and batch size."""
    seen: list[dict[str, Any]] = []

    def train(dataset: PreparedDataset, **given: Any) -> Any:
        seen.append(given)
        config: TrainConfig = given["train_config"]
        if config.lr > 6e-3:
            raise TrainingError("diverged")
        return SimpleNamespace(valid={"auc": 0.7 - abs(config.lr - 0.002) * 10 - config.batch_size / 1e6})

    monkeypatch.setattr(tuning, "train_once", train)
    return seen


def test_first_trial_is_the_rule_and_the_best_is_named(
    dataset: PreparedDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    told: list[int] = []
    tuned = tune(dataset, tmp_path, trials=12, said=lambda trial, so_far: told.append(trial.number))
    rule = settings_of(dataset)
    assert trained[0]["train_config"] == TrainConfig.from_json({**rule.training, "seed": 0})
    assert trained[0]["history"] == "mean", "the data have histories"
    assert told == list(range(12))
    best = tuned.best
    assert best is not None
    assert best.score is not None
    assert best.score == max(trial.score or 0 for trial in tuned.trials)
    assert best.score > (tuned.trials[0].score or 0)
    assert all(given["read_test"] is False for given in trained)
    command = tuned.command("data/x")
    assert f"--set train.lr={best.settings['train.lr']}" in command
    assert "--history mean" in command


def test_a_killed_search_goes_on_as_if_it_had_not_been(
    dataset: PreparedDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    whole = tune(dataset, tmp_path / "a", trials=10)
    for trials in (1, 4, 5, 10):
        parts = tune(dataset, tmp_path / "b", trials=trials)
    assert [t.values for t in parts.trials] == [t.values for t in whole.trials]
    assert [t.score for t in parts.trials] == [t.score for t in whole.trials]
    assert len(trained) == 20
    other = tune(dataset, tmp_path / "c", trials=10, seed=1)
    assert other.trials[3].values != whole.trials[3].values


def test_diverged_trials_are_kept_and_never_best(
    dataset: PreparedDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    tuned = tune(dataset, tmp_path, trials=25)
    failed = [trial for trial in tuned.trials if trial.score is None]
    assert failed
    assert all(trial.error == "diverged" for trial in failed)
    assert tuned.best not in failed
    kept = json.loads((tmp_path / TRIALS_FILE).read_text())
    assert kept["best"] == tuned.best.number  # type: ignore[union-attr]
    assert len(kept["trials"]) == 25


def test_what_is_given_is_not_searched(dataset: PreparedDataset, tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    given = {"lr": 0.003, "gradient": "sparse"}
    tuned = tune(dataset, tmp_path, trials=4, training=given, model_options={"dropout": 0.25})
    names = set(tuned.trials[-1].values)
    assert names == {"train.batch_size", "model.batch_norm"}, "sparse gradients have no L2"
    assert {t["train_config"].lr for t in trained} == {0.003}
    assert {t["model_options"]["dropout"] for t in trained} == {0.25}


def test_another_search_in_the_same_folder_is_refused(
    dataset: PreparedDataset, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    tune(dataset, tmp_path, trials=1)
    with pytest.raises(ValueError, match=r"holds another search.*model"):
        tune(dataset, tmp_path, trials=1, model="mlp")
    (tmp_path / TRIALS_FILE).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        tune(dataset, tmp_path, trials=1)
    with pytest.raises(ValueError, match="--trials"):
        tune(dataset, tmp_path / "x", trials=0)


def test_the_rule_follows_the_rows() -> None:
    small = default_settings(Facts(rows=20_000, histories=False))
    large = default_settings(Facts(rows=40_000_000, histories=True))
    assert small.training["batch_size"] == 256
    assert large.training["batch_size"] == 4096
    assert (small.history, large.history) == ("none", "mean")
    for found in (small, large):
        TrainConfig.from_json(found.training)
    shallow = default_settings(Facts(1000, False), "lr")
    assert "dropout" not in shallow.model
    assert shallow.training["embedding_l2"] < small.training["embedding_l2"]


def test_settings_that_are_given_stand(dataset: PreparedDataset) -> None:
    found = settings_of(dataset, history="none", training={"batch_size": 77}, options={"dropout": 0.5})
    assert (found.history, found.training["batch_size"], found.model["dropout"]) == ("none", 77, 0.5)
    assert settings_of(dataset, training={"gradient": "sparse"}).training.get("embedding_l2", 0.0) == 0.0
    TrainConfig.from_json(settings_of(dataset, training={"gradient": "sparse"}).training)
    fused = settings_of(dataset, training={"fused_optimizer": True, "row_optimizer": "adagrad"}).training
    assert fused.get("embedding_l2", 0.0) == 0.0
    ratings = settings_of(dataset, training={"objective": "mse"})
    assert (ratings.history, ratings.training) == ("none", {"objective": "mse"}), "the rule is of clicks"

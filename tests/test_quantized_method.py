"""The method ``quantized`` from plan to result: one training for all budgets, widths, kills, its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_helpers import counted, run_with_kills, tiny_dataset, watch_trainings

from rectab.data.dataset import PreparedDataset
from rectab.tables import InfeasibleBudget, full_table_bytes, load_table, plan
from rectab.training import CheckpointError, RunResult, TrainConfig, Trainer, evaluate, load_model, one_run, train_once
from rectab.training.compress.curve import compress
from rectab.training.compress.widths import open_runs
from rectab.training.config import TrainConfig as Config
from rectab.training.run import model_config
from rectab.training.shared import SharedRuns

SETTINGS: dict[str, Any] = {"batch_size": 200, "max_epochs": 2, "lr": 0.01, "precision": "fp32"}


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(rows=600)


def run(dataset: PreparedDataset, out: Path | None, budget: str | None = "20%", **options: Any) -> RunResult:
    settings = {**SETTINGS, **options.pop("training", {})}
    return train_once(
        dataset,
        **{"method": "quantized", "model": "fm", "embedding_dim": 6, "progress": "off"} | options,
        budget=budget,
        train_config=TrainConfig(**settings),
        out_dir=out,
    )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of the tables that were trained."""
    return watch_trainings(monkeypatch, lambda table: table.embedding_dim)


def test_all_budgets_and_the_full_table_share_one_training(
    dataset: PreparedDataset, tmp_path: Path, trainings: list[int]
) -> None:
    shared = tmp_path / "trained"
    results = {b: run(dataset, tmp_path / b, b, shared=shared) for b in ("40%", "20%", "10%")}
    full = run(dataset, tmp_path / "full", None, method="full", shared=shared)
    assert trainings == [6]
    for budget, result in results.items():
        assert result.serving_bytes <= result.budget_bytes == plan_of(dataset, budget).budget_bytes
        assert result.train_seconds == full.train_seconds
        assert result.training_bytes == full.training_bytes
        assert result.encoded is not None
        assert result.encoded["full_valid"]["auc"] == pytest.approx(full.valid["auc"], abs=1e-6)
        assert result.encoded["seconds"].keys() >= {"sensitivity", "options", "allocation", "encoding", "validation"}
        assert sum(block[2] for block in result.encoded["blocks"]) == sum(
            v.num_embeddings for v in dataset.schema.vocabularies
        )
        assert result.test is not None
        assert [finding["title"] for finding in result.learned] == ["Bits per vocabulary", "Bits by frequency"]


def plan_of(dataset: PreparedDataset, budget: str, **options: Any) -> Any:
    return plan("quantized", dataset.schema.vocabularies, 6, budget, **options)


def test_a_run_alone_keeps_what_it_trained(dataset: PreparedDataset, tmp_path: Path, trainings: list[int]) -> None:
    first = run(dataset, tmp_path / "a")
    (kept,) = (tmp_path / "a" / "trained").glob("*/result.json")
    again = run(dataset, tmp_path / "b", shared=tmp_path / "a" / "trained")
    assert trainings == [6]
    assert again.valid == first.valid
    compress(dataset, [kept.parent], tmp_path / "c", ["20%"])
    assert json.loads((tmp_path / "c" / "20%" / "result.json").read_text())["valid"] == first.valid
    assert run(dataset, None).valid == first.valid, "without a folder"


def test_the_folder_is_a_run_that_commands_take(dataset: PreparedDataset, tmp_path: Path, trainings: list[int]) -> None:
    result = run(dataset, tmp_path / "run", read_test=False)
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert evaluate(model, dataset.valid)["auc"] == pytest.approx(result.valid["auc"], abs=1e-7)
    table = load_table(tmp_path / "run" / "table.safetensors")
    assert table.ledger().bytes == model.table.ledger().bytes == result.serving_bytes
    back = run(dataset, tmp_path / "run")
    assert trainings == [6]
    assert back.valid == result.valid
    assert back.test is not None
    with pytest.raises(CheckpointError, match="budget_bytes"):
        run(dataset, tmp_path / "run", "10%")
    with pytest.raises(ValueError, match="its table is 'quantized'; only a run of --table full"):
        compress(dataset, [tmp_path / "run"], tmp_path / "again", ["10%"])


def test_validation_chooses_a_width_and_shares_are_of_the_first(
    dataset: PreparedDataset, tmp_path: Path, trainings: list[int]
) -> None:
    options = {"method_options": {"widths": [6, 2]}, "shared": tmp_path / "trained"}
    result, narrow = (run(dataset, tmp_path / b, b, **options) for b in ("50%", "4%"))
    assert trainings == [6, 2]
    for made in (result, narrow):
        assert made.encoded is not None
        reached = {w["embedding_dim"]: w["valid"]["auc"] for w in made.encoded["widths"] if w["valid"]}
        assert made.valid["auc"] == max(reached.values()) == reached[made.encoded["embedding_dim"]]
        assert made.train_seconds == sum(w["train_seconds"] for w in made.encoded["widths"])
        assert made.table["embedding_dim"] == 6
        assert [stage["stage"] for stage in made.stages] == ["train, width 6", "train, width 2"]
    assert result.budget_bytes == full_table_bytes(dataset.schema.vocabularies, 6) // 2


def test_compress_of_several_widths_is_the_method_at_these_widths(dataset: PreparedDataset, tmp_path: Path) -> None:
    options = {"method_options": {"widths": [6, 2]}, "shared": tmp_path / "trained"}
    result = run(dataset, tmp_path / "run", **options)
    folders = [path.parent for path in (tmp_path / "trained").glob("*/result.json")]
    folders.sort(key=lambda path: -json.loads((path / "result.json").read_text())["table"]["embedding_dim"])
    compress(dataset, folders, tmp_path / "out", ["20%"])
    back = run(dataset, tmp_path / "out" / "20%", **options)
    assert back.valid == result.valid
    assert back.test == result.test


def test_one_after_another_opens_what_was_trained_once(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(
        one_run, "open_runs", lambda folders, *rest: opened.append(folders) or open_runs(folders, *rest)
    )
    shared = SharedRuns(tmp_path / "trained")
    together = [run(dataset, tmp_path / b, b, shared=shared) for b in ("40%", "10%")]
    assert len(opened) == 1
    alone = run(dataset, tmp_path / "alone", "10%", shared=tmp_path / "trained")
    assert len(opened) == 2
    assert alone.valid == together[1].valid
    run(dataset, tmp_path / "other", "10%", shared=shared, training={"seed": 1})
    assert len(opened) == 3


def test_a_kill_at_any_checkpoint_loses_nothing(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"checkpoint_seconds": 0.0}
    undisturbed = run(dataset, tmp_path / "a", training=settings)
    killed, checkpoints = run_with_kills(monkeypatch, 2, lambda: run(dataset, tmp_path / "b", training=settings))
    assert checkpoints > 4
    assert killed.valid == undisturbed.valid
    assert killed.serving_bytes == undisturbed.serving_bytes


def test_the_trainer_alone_ends_in_an_encoded_table(dataset: PreparedDataset) -> None:
    planned = plan_of(dataset, "20%")
    trainer = Trainer(dataset, planned.build(), model_config("fm", "none"), Config(**SETTINGS), progress="off")
    table = trainer.fit()
    assert table.method == "quantized.packed"
    assert table.ledger().bytes <= planned.budget_bytes
    assert trainer.evaluate()["auc"] > 0.5


def test_shapes_made_by_hand_are_encoded_of_the_same_training(
    dataset: PreparedDataset, tmp_path: Path, trainings: list[int]
) -> None:
    shared = tmp_path / "trained"
    for shape, budget in (("best", "60%"), ("int8", "60%"), ("threshold", "30%")):
        made = run(dataset, tmp_path / shape, budget, shared=shared, method_options={"shape": shape})
        assert made.budget_bytes is not None
        assert made.serving_bytes <= made.budget_bytes
        assert made.encoded is not None
        encodings = {block[3] for block in made.encoded["blocks"]}
        hand = {"int8": {"int8/dimension"}, "threshold": {"int8/dimension", "shared"}}
        assert encodings == hand.get(shape, encodings)
    assert trainings == [6]
    for shape in ("int8", "threshold"):
        with pytest.raises(InfeasibleBudget) as caught:
            plan_of(dataset, "10B", shape=shape)
        smallest = f"{caught.value.smallest_bytes}B"
        options = {"shared": shared, "method_options": {"shape": shape}}
        assert run(dataset, None, smallest, **options).serving_bytes == caught.value.smallest_bytes
    with pytest.raises(ValueError, match=r"quantized.shape must be"):
        run(dataset, None, "60%", method_options={"shape": "int4"})


def test_the_trainer_alone_makes_these_shapes_too(dataset: PreparedDataset) -> None:
    planned = plan_of(counted(dataset), "30%", shape="threshold")
    table = planned.build().serving()
    assert set(table.config.encodings) == {"int8/dimension", "shared"}
    assert table.ledger().bytes <= planned.budget_bytes


def test_ids_are_counted_after_training(dataset: PreparedDataset, tmp_path: Path) -> None:
    shared = tmp_path / "trained"
    beside, within = (
        run(dataset, tmp_path / str(counted), "30%", shared=shared, count_ids=counted) for counted in (False, True)
    )
    assert beside.map_bytes is not None
    assert within.map_bytes is not None
    assert beside.serving_bytes + beside.map_bytes > beside.budget_bytes
    assert within.bytes_within_budget == within.serving_bytes + within.map_bytes <= within.budget_bytes


def test_plan_tells_what_is_known_before_training(dataset: PreparedDataset) -> None:
    vocabularies = dataset.schema.vocabularies
    full = plan("full", vocabularies, 6)
    planned = plan_of(dataset, "20%")
    assert planned.at_most
    assert planned.serving.bytes == planned.budget_bytes
    assert planned.training.only("rows").bytes == full.training.only("rows").bytes
    assert planned.training.only("optimizer").bytes == full.training.only("optimizer").bytes
    own = plan("quantized", vocabularies, 6)
    assert 0.25 < own.serving.bytes / own.full_bytes < 0.35, "without a budget: int8"
    with pytest.raises(InfeasibleBudget) as caught:
        plan_of(dataset, "10B")
    narrow = plan_of(dataset, f"{caught.value.smallest_bytes}B", widths=(6, 1)).serving.bytes
    assert narrow == caught.value.smallest_bytes


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([7], "go beyond embedding_dim 6"),
        ([3, 3], "widths must be different numbers"),
        ([0], "widths must be different numbers of at least 1"),
        ("wide", "quantized.widths must be a list"),
    ],
)
def test_bad_widths_are_refused(dataset: PreparedDataset, widths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(dataset, "20%", widths=widths)

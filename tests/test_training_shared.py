"""Trainings that several runs share: trained once, found by what they are, and gone on with after a kill."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_helpers import run_with_kills, tiny_dataset, watch_trainings

from rectab.data.dataset import PreparedDataset
from rectab.tables import get_method, registry
from rectab.training import RunResult, TrainConfig, train_once
from rectab.training.finished import identity_of, load_result
from rectab.training.shared import SharedRuns

SETTINGS: dict[str, Any] = {"batch_size": 100, "max_epochs": 1, "precision": "fp32"}


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(rows=400)


@pytest.fixture(autouse=True)
def shared_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some method is trained as the full table, whichever there are."""
    other = replace(get_method("hashed"), name="like_full", trained_as="full")
    monkeypatch.setitem(registry._RECORDS, "like_full", other)


def run(dataset: PreparedDataset, out: Path, shared: Path | None, **options: Any) -> RunResult:
    settings = {**SETTINGS, **options.pop("training", {})}
    return train_once(
        dataset,
        **{"method": "full", "model": "lr", "embedding_dim": 4, "progress": "off"} | options,
        train_config=TrainConfig(**settings),
        out_dir=out,
        shared=shared,
    )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the tables that were trained."""
    return watch_trainings(monkeypatch, lambda table: table.method)


def test_a_shared_run_is_trained_once_and_gives_what_a_run_alone_gives(
    dataset: PreparedDataset, tmp_path: Path, trainings: list[str]
) -> None:
    alone = run(dataset, tmp_path / "alone", None)
    first = run(dataset, tmp_path / "a", tmp_path / "shared")
    second = run(dataset, tmp_path / "b", tmp_path / "shared")
    assert trainings == ["full", "full"]
    assert first.valid == second.valid == alone.valid
    assert first.test == second.test == pytest.approx(alone.test, rel=1e-6)
    assert first.train_seconds == second.train_seconds
    (kept,) = (tmp_path / "shared").glob("*/result.json")
    assert json.loads(kept.read_text())["test"] is None, "what shares a training may not share a look at the test split"
    assert run(dataset, tmp_path / "b", tmp_path / "shared").test == second.test


def test_what_differs_is_another_training(dataset: PreparedDataset, tmp_path: Path, trainings: list[str]) -> None:
    shared = tmp_path / "shared"
    run(dataset, tmp_path / "a", shared, read_test=False)
    run(dataset, tmp_path / "b", shared, read_test=False, training={"seed": 1})
    run(dataset, tmp_path / "c", shared, read_test=False, embedding_dim=3)
    run(dataset, tmp_path / "d", shared, read_test=False, model="fm")
    run(tiny_dataset(400, seed=1), tmp_path / "e", shared, read_test=False)
    assert len(trainings) == 5
    run(dataset, tmp_path / "f", shared, read_test=False, method="hashed", budget="50%")
    assert len(list(shared.glob("*/result.json"))) == 5, "a method that shares nothing is not kept"
    run(dataset, tmp_path / "g", shared, read_test=False, training={"checkpoint_seconds": 1.0})
    assert len(trainings) == 6, "how often a run is saved makes it no other one"


def test_finished_runs_are_found_under_any_name(dataset: PreparedDataset, tmp_path: Path, trainings: list[str]) -> None:
    folder = tmp_path / "mine"
    run(dataset, folder / "frappe_s0", None, read_test=False)
    before = {path: path.read_bytes() for path in (folder / "frappe_s0").iterdir()}
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text('{"dataset": 3}')
    (folder / "a note.txt").write_text("kept")
    result = run(dataset, tmp_path / "out", folder)
    assert trainings == ["full"]
    assert result.test is not None
    assert before == {path: path.read_bytes() for path in (folder / "frappe_s0").iterdir()}


def test_those_who_ask_at_once_wait_for_the_one_that_trains(dataset: PreparedDataset, tmp_path: Path) -> None:
    finished = run(dataset, tmp_path / "run", None, read_test=False)
    shared, trained, found = SharedRuns(tmp_path / "shared"), [], []

    def train(folder: Path) -> None:
        trained.append(folder)
        finished.save(folder / "result.json")

    threads = [
        threading.Thread(target=lambda: found.append(shared.get(identity_of(finished), train))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert found == trained * 6


def test_a_killed_training_goes_on_where_it_stopped(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "max_epochs": 3, "checkpoint_seconds": 0.0}
    undisturbed = run(dataset, tmp_path / "a", None, training=settings, read_test=False)
    shared = tmp_path / "shared"
    killed, checkpoints = run_with_kills(
        monkeypatch, 3, lambda: run(dataset, tmp_path / "b", shared, training=settings, read_test=False)
    )
    assert checkpoints > 6
    assert killed.valid == undisturbed.valid
    (folder,) = (path.parent for path in shared.glob("*/result.json"))
    assert not (folder / "checkpoints").exists()
    assert load_result(folder) is not None


def test_checkpoints_that_are_damaged_start_over(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, finished = tmp_path / "shared", run(dataset, tmp_path / "a", None, read_test=False)
    get = SharedRuns(shared).get
    place = get(identity_of(finished), lambda folder: finished.save(folder / "result.json"))
    (place / "result.json").unlink()
    (place / "checkpoints").mkdir()
    (place / "checkpoints" / "run.json").write_text("{")
    again = run(dataset, tmp_path / "b", shared, read_test=False)
    assert again.valid == finished.valid


def test_the_last_thing_that_was_made_is_kept_and_no_other(tmp_path: Path) -> None:
    shared, made = SharedRuns(tmp_path), []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    asked = ["a", "a", "b", "b", "a"]
    assert [shared.last(name, lambda name=name: make(name)) for name in asked] == ["A", "A", "B", "B", "A"]
    assert made == ["a", "b", "a"]

"""A run whose folder holds its result is read back; the result of another run is never taken for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_helpers import tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.tables import registry
from rectab.training import CheckpointError, RunResult, TrainConfig, Trainer, train_once

SETTINGS: dict[str, Any] = {"batch_size": 100, "max_epochs": 1, "precision": "fp32"}


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(rows=400)


def run(
    dataset: PreparedDataset, out: Path | None, training: dict[str, Any] | None = None, **options: Any
) -> RunResult:
    return train_once(
        dataset,
        **{
            "method": "unified",
            "budget": "50%",
            "model": "mlp",
            "history": "din",
            "model_options": {"hidden": [8], "history": {"hidden": [4]}},
            "embedding_dim": 4,
            "train_config": TrainConfig(**SETTINGS, **(training or {})),
            "out_dir": out,
            "progress": "off",
            **options,
        },
    )


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(trainer: Trainer) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "fit", fit)


@pytest.fixture(scope="module")
def finished(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder; no test changes it."""
    out = tmp_path_factory.mktemp("finished")
    run(dataset, out)
    return out


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_is_read_back_and_says_so(dataset: PreparedDataset, finished: Path) -> None:
    said: list[str] = []
    files = {path: path.read_bytes() for path in finished.iterdir()}
    result = run(dataset, finished, say=said.append)
    assert result.to_json() == json.loads((finished / "result.json").read_text())
    assert len(said) == 1
    assert str(finished / "result.json") in said[0]
    run(dataset, finished, {"checkpoint_seconds": 1.0})
    run(dataset, finished, model_options={"hidden": (8,), "history": {"hidden": (4,)}})
    assert files == {path: path.read_bytes() for path in finished.iterdir()}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("training", "options", "message"),
    [
        ({"seed": 1}, {}, r"train\.seed: 0 there, 1 here"),
        ({}, {"budget": "60%"}, r"table\.budget_bytes: \d+ there, \d+ here"),
        ({}, {"budget": None}, r"table\.budget_bytes: \d+ there, None here"),
        ({}, {"method": "hashed"}, r"table\.method: 'unified' there, 'hashed' here"),
        ({}, {"method_options": {"seed": 5}}, r"table\.config\.seed: 0 there, 5 here"),
        ({}, {"history": "none", "model_options": {"hidden": [8]}}, r"model\.history: 'din' there, 'none' here"),
    ],
)
def test_the_result_of_another_run_is_refused(
    dataset: PreparedDataset, finished: Path, training: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        run(dataset, finished, training, **options)
    assert str(finished) in str(caught.value)


@pytest.mark.usefixtures("no_training")
def test_other_data_and_other_revisions_are_other_runs(
    dataset: PreparedDataset, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"dataset: '.*' there, '.*' here"):
        run(tiny_dataset(rows=400, seed=1), finished)
    changed = replace(registry.get_method("unified"), revision=2)
    monkeypatch.setitem(registry._RECORDS, "unified", changed)
    with pytest.raises(CheckpointError, match=r"table\.revision: 1 there, 2 here"):
        run(dataset, finished)


def test_test_is_read_when_it_is_asked_for_and_not_before(
    dataset: PreparedDataset, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = replace(dataset, test=None)  # type: ignore[arg-type]
    first = run(blind, tmp_path, read_test=False)
    assert (first.test, first.slices, first.attention) == (None, {}, [])
    monkeypatch.setattr(Trainer, "fit", lambda trainer: pytest.fail("trained again"))
    at_once = run(dataset, finished)
    second = run(dataset, tmp_path)
    assert second.test == pytest.approx(at_once.test, rel=1e-6)
    assert second.slices.keys() == at_once.slices.keys()
    assert run(blind, tmp_path).test == second.test, "measured once, kept in result.json"
    assert run(blind, tmp_path, read_test=False).test is None, "a run that chooses settings sees no test metrics"
    assert len(run(dataset, tmp_path, explain_rows=2).attention) == 2
    (tmp_path / "model.safetensors").unlink()
    assert len(run(dataset, tmp_path, explain_rows=2).attention) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"valid": 3}'])
@pytest.mark.usefixtures("no_training")
def test_a_result_that_cannot_be_read_is_named(dataset: PreparedDataset, tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"result\.json: damaged, or of another version.*delete it"):
        run(dataset, tmp_path)


@pytest.mark.usefixtures("no_training")
def test_what_is_not_a_number_comes_back_as_such(dataset: PreparedDataset, finished: Path, tmp_path: Path) -> None:
    kept = json.loads((finished / "result.json").read_text())
    kept["valid"]["gauc"] = None
    (tmp_path / "result.json").write_text(json.dumps(kept))
    assert math.isnan(run(dataset, tmp_path).valid["gauc"])

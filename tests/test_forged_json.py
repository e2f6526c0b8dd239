"""JSON files of runs, sweeps and prepared data that say something else than they did: refused by name, or run again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from forging import changed
from hypothesis import given, settings
from sweep_fakes import CONFIG, finished_sweep
from training_helpers import tiny_dataset

from rectab.data import DataError, PreparedDataset, Recipe, prepare
from rectab.sweep import write_report
from rectab.sweep.plan import plan_from_folder
from rectab.sweep.store import SweepFolderError
from rectab.training import CheckpointError, RunResult, TrainConfig, render_result, train_once

FUZZ = settings(max_examples=80, deadline=None, derandomize=True)


def run(folder: Path) -> RunResult:
    config = TrainConfig(batch_size=50, max_epochs=1, precision="fp32")
    return train_once(tiny_dataset(60), method="full", model="lr", train_config=config, out_dir=folder, progress="off")


def test_results_of_a_run(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "result.json"
    content = json.loads(path.read_text())

    @FUZZ
    @given(changed(content))
    def fuzz(other: Any) -> None:
        path.write_text(json.dumps(other))
        try:
            render_result(run(tmp_path))
        except CheckpointError as error:
            assert "result" in str(error) or str(tmp_path) in str(error)  # noqa: PT017

    fuzz()
    for text in ("[" * 100_000, "NaN", "[]", ""):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"result\.json: damaged"):
            run(tmp_path)


def test_files_of_a_sweep(tmp_path: Path) -> None:
    config = CONFIG.replace("[0, 1, 2]", "[0]").replace('["50%", "10%", "2%"]', '["50%"]')
    made = finished_sweep(tmp_path, config)
    spec = made.runs()[0]
    path = made.store.run_path(spec.hash)
    record, whole = json.loads(path.read_text()), (made.store.folder / "sweep.json").read_text()

    @FUZZ
    @given(changed(record))
    def fuzz_run(other: Any) -> None:
        path.write_text(json.dumps(other))
        if made.store.read_run(spec.hash) is not None:
            write_report(made.store.folder)

    @FUZZ
    @given(changed(json.loads(whole)))
    def fuzz_sweep(other: Any) -> None:
        (made.store.folder / "sweep.json").write_text(json.dumps(other))
        try:
            plan_from_folder(made.store.folder)
        except SweepFolderError as error:
            assert str(made.store.folder) in str(error)  # noqa: PT017

    fuzz_run()
    fuzz_sweep()
    path.write_text("[" * 100_000)
    assert made.store.read_run(spec.hash) is None


def test_prepared_data(tmp_path: Path) -> None:
    small = {"rows": 900, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}
    folder = prepare(Recipe.model_validate({"name": "small", "synthetic": small}), None, tmp_path / "small").path
    path = folder / "schema.json"
    content = json.loads(path.read_text())
    batch = PreparedDataset.open(folder).train.batch(slice(0, 5))

    @FUZZ
    @given(changed({key: content[key] for key in ("version", "name", "schema", "arrays")}))
    def fuzz(other: Any) -> None:
        path.write_text(json.dumps({**content, **other} if isinstance(other, dict) else other))
        try:
            PreparedDataset.open(folder)
        except DataError as error:
            assert str(error).startswith(str(folder))  # noqa: PT017

    fuzz()
    assert math.isfinite(float(batch.ids.sum()))
    for text in ("[" * 100_000, "[]", "NaN"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"schema\.json: "):
            PreparedDataset.open(folder)

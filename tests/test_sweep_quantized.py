"""A sweep of encoded tables by the real runner: one training a seed, kept no longer than it is needed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from rectab.sweep.report import write_report
from rectab.sweep.sweep import SweepPlan, _sharing, plan_from_folder, run_sweep

RECIPE = """
name = "small"
[synthetic]
rows = 1500
users = 60
items = 90
categories = 5
fields = { page = 40 }
history_length = 4
"""
SWEEP = """
budgets = ["30%", "10%"]
seeds = [0, 1]
embedding_dim = 4
jobs = 2

[[datasets]]
recipe = "small.toml"

[[models]]
model = "lr"

[[methods]]
method = "quantized"

[[methods]]
method = "full"

[training]
batch_size = 200
max_epochs = 1
precision = "fp32"
"""


def run(folder: Path, out: Path, text: str = SWEEP, **options: Any) -> SweepPlan:
    (folder / "small.toml").write_text(RECIPE)
    (folder / "sweep.toml").write_text(text)
    return run_sweep(folder / "sweep.toml", out, console=Console(file=io.StringIO()), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep; no test changes it."""
    folder = tmp_path_factory.mktemp("quantized")
    assert run(folder, folder / "out").failed() == []
    return folder


def test_all_budgets_of_a_seed_and_its_full_table_are_one_training(finished: Path) -> None:
    rows = pl.read_parquet(finished / "out" / "results.parquet")
    assert rows["status"].to_list() == ["ok"] * 6
    for seed in (0, 1):
        of_seed = rows.filter(pl.col("seed") == seed)
        assert of_seed["train_seconds"].n_unique() == 1, "trained once, the seconds to the microsecond the same"
        full = of_seed.filter(pl.col("table") == "full")
        encoded = of_seed.filter(pl.col("table") == "quantized")
        assert encoded["full_valid_auc"].to_list() == pytest.approx([full["valid_auc"].item()] * 2, abs=1e-6)
        assert (encoded["serving_bytes"] <= encoded["budget_bytes"]).all()
        assert (encoded["training_bytes"] == full["training_bytes"].item()).all()


def test_runs_of_one_training_come_in_a_row(finished: Path) -> None:
    specs = plan_from_folder(finished / "out").runs()
    told = _sharing(specs, finished)
    assert [(s.method, s.seed, s.budget) for s in told] == [
        *(("quantized", seed, budget) for seed in (0, 1) for budget in ("30%", "10%")),
        *(("full", seed, None) for seed in (0, 1)),
    ]
    assert all(s.trained == str(finished) for s in told)
    assert _sharing(specs, None) == specs


def test_what_was_trained_is_removed_when_all_runs_are_there(finished: Path) -> None:
    assert not (finished / "out" / "trained").exists()
    assert not any((finished / "out" / "work").glob("*"))


def test_the_report_tells_predicted_and_measured_losses(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished / "out", tmp_path / "out"))
    page = write_report(out).read_text()
    assert 'id="s0-encoded"' in page
    assert 'id="s0-expected"' in page
    assert "Bits by frequency" in page


def test_trainings_are_kept_and_taken_where_asked(finished: Path, tmp_path: Path) -> None:
    """A sweep that was killed with one run missing goes on with what was trained; one elsewhere takes it as well."""
    kept, out = tmp_path / "kept", Path(shutil.copytree(finished / "out", tmp_path / "out"))
    first = run(tmp_path, tmp_path / "first", trained=kept)
    assert f"--trained {kept}" in first.command
    trained = {path: path.read_bytes() for path in kept.glob("*/*") if path.is_file()}
    assert len(list(kept.glob("*/result.json"))) == 2
    shutil.copytree(kept, out / "trained")
    record = next(path for path in (out / "runs").glob("*.json") if '"quantized"' in path.read_text())
    before = json.loads(record.read_text())
    record.unlink()
    second = run(tmp_path, out)
    assert second.failed() == []
    assert [spec.hash for spec in first.runs()] == [spec.hash for spec in second.runs()], "where it lies changes no run"
    after = json.loads(record.read_text())
    assert after["result"]["valid"] == before["result"]["valid"]
    seconds = [json.loads(path.read_text())["train_seconds"] for path in kept.glob("*/result.json")]
    assert after["result"]["train_seconds"] in seconds, "taken, not trained again"
    assert not (out / "trained").exists()
    assert trained == {path: path.read_bytes() for path in kept.glob("*/*") if path.is_file()}


def test_a_failed_run_keeps_what_was_trained(tmp_path: Path) -> None:
    text = SWEEP.replace('method = "quantized"\n', 'method = "quantized"\noptions = { widths = [9] }\n')
    assert run(tmp_path, tmp_path / "out", text).failed()
    assert list((tmp_path / "out" / "trained").glob("*/result.json"))

"""A sweep resumes at any kill, keeps failures as failures, and never runs twice what it has."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from sweep_fakes import CONFIG, RUNNER, fake_dataset

from rectab.sweep.results import RESULT_COLUMNS, collect_results
from rectab.sweep.store import SweepFolderError, exclusive
from rectab.sweep.sweep import SweepPlan, plan_from_folder, run_sweep

CIRCUMSTANCES = ["wall_seconds", "started", "threads", "commit"]


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(CONFIG)
    return path


def run(sweep_file: Path, out: Path, **options: object) -> tuple[SweepPlan, str]:
    console = Console(file=io.StringIO(), width=200)
    options = {"runner": RUNNER, **options}
    plan = run_sweep(sweep_file, out, datasets=[fake_dataset()], console=console, **options)  # type: ignore[arg-type]
    return plan, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of ``CONFIG``; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "sweep.toml").write_text(CONFIG)
    _, text = run(folder / "sweep.toml", folder / "out", jobs=2)
    (folder / "log.txt").write_text(text)
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep's folder."""
    return Path(shutil.copytree(finished / "out", tmp_path / "out"))


def results(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "results.parquet")


def test_every_run_has_a_row(finished: Path) -> None:
    frame = results(finished / "out")
    assert frame.columns == list(RESULT_COLUMNS)
    assert frame.height == 3 * (1 + 3 + 3)
    assert frame["status"].unique().to_list() == ["ok"]
    assert frame.filter(pl.col("table") == "full")["budget"].to_list() == [None] * 3
    assert frame["ratio"].max() == 1.0
    assert (frame["serving_bytes"] <= frame["budget_bytes"].fill_null(frame["full_bytes"])).all()
    assert frame["auc_tail"].null_count() == 0
    text = (finished / "log.txt").read_text()
    assert "[21/21" in text
    assert "test AUC" in text


def test_nothing_runs_twice(sweep_file: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}
    _, text = run(sweep_file, out)
    assert "21 of 21 runs are there already" in text
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}


def test_killed_sweep_goes_on_to_the_same_results(finished: Path, sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    program = (
        "from pathlib import Path; from rectab.sweep.sweep import run_sweep; from sweep_fakes import *;"
        f"run_sweep({str(sweep_file)!r}, {str(out)!r}, runner=RUNNER, datasets=[fake_dataset()], jobs=2)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "SWEEP_TRAP": json.dumps({"sleep": 0.3})}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("runs/*.json"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the sweep ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # workers end when their standard input closes; what they were at must not appear
    survivors = {path.stem for path in out.glob("runs/*.json")}
    assert 3 <= len(survivors) < 21
    time.sleep(0.5)
    assert survivors == {path.stem for path in out.glob("runs/*.json")}
    _, text = run(sweep_file, out)
    assert f"{len(survivors)} of 21 runs are there already" in text
    assert results(out).drop(CIRCUMSTANCES).equals(results(finished / "out").drop(CIRCUMSTANCES))


def test_runs_are_placed_on_several_devices(finished: Path, sweep_file: Path, tmp_path: Path) -> None:
    options = {"devices": ["cuda:0", "cuda:1"], "runner": "sweep_fakes:placed_run"}
    plan, _ = run(sweep_file, tmp_path / "out", **options)
    frame = results(tmp_path / "out")
    assert frame.height == 21
    counts = dict(frame.group_by("device").len().rows())
    assert counts.keys() == {"cuda:0", "cuda:1"}
    assert min(counts.values()) >= 5  # a process each, at work at the same time
    assert frame["auc"].equals(results(finished / "out")["auc"])
    assert plan.command.endswith("--devices cuda:0,cuda:1")
    assert "21 of 21 runs are there already" in run(sweep_file, tmp_path / "out")[1]  # on any device


@pytest.mark.parametrize(
    ("kind", "message"),
    [("raise", "FloatingPointError: the loss became NaN in step 17"), ("kill", "killed by SIGKILL; perhaps out of")],
)
def test_failures_are_rows_and_are_run_again_on_request(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    out = tmp_path / "out"
    sweep_file.write_text(CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0]").replace('"50%", ', ""))
    monkeypatch.setenv("SWEEP_TRAP", json.dumps({"method": "unified", "kind": kind}))
    run(sweep_file, out)
    failed = results(out).filter(pl.col("table") == "unified")
    assert failed["status"].unique().to_list() == ["failed"]
    assert message in failed["error"][0]
    assert failed["auc"].null_count() == failed.height
    assert results(out).filter(pl.col("table") != "unified")["status"].unique().to_list() == ["ok"]
    monkeypatch.delenv("SWEEP_TRAP")
    run(sweep_file, out)
    assert results(out)["status"].value_counts(sort=True)["count"].to_list() == [3, 2], "failures are kept"
    run(sweep_file, out, retry_failed=True)
    assert results(out)["status"].unique().to_list() == ["ok"]


def test_infeasible_budget_says_what_would_be_feasible(sweep_file: Path, out: Path) -> None:
    sweep_file.write_text(CONFIG.replace('"2%"', '"16B"'))
    run(sweep_file, out)
    rows = results(out).filter(pl.col("budget") == "16B")
    assert rows["status"].unique().to_list() == ["infeasible"]
    assert rows["smallest_feasible_bytes"].min() > 16  # type: ignore[operator]
    assert rows["auc"].null_count() == rows.height


def test_changed_configuration_leaves_old_runs_aside(sweep_file: Path, out: Path) -> None:
    sweep_file.write_text(CONFIG.replace("seeds = [0, 1, 2]", "seeds = [1, 2]").replace("0.001", "0.002"))
    plan, text = run(sweep_file, out)
    assert len(plan.stale()) == 21
    assert "21 run files of an older configuration are ignored" in text
    assert results(out).height == 14


def test_renaming_runs_nothing_again(sweep_file: Path, out: Path) -> None:
    sweep_file.write_text(CONFIG.replace('method = "unified"', 'method = "unified"\nname = "ours"'))
    _, text = run(sweep_file, out)
    assert "21 of 21" in text
    assert "ours" in results(out)["method"].to_list()


def test_damaged_run_file_is_run_again(sweep_file: Path, out: Path) -> None:
    expected = results(out)
    victim = sorted(out.glob("runs/*.json"))[0]
    victim.write_text(victim.read_text()[:100])
    run(sweep_file, out)
    assert results(out).drop(CIRCUMSTANCES).equals(expected.drop(CIRCUMSTANCES))


def test_tuning_gives_every_cell_the_same_trials_and_never_sees_test(sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep_file.write_text(CONFIG + "\n[tuning]\ngrid = { lr = [0.0005, 0.002, 0.001] }\n")
    plan, told = run(sweep_file, out, jobs=2)
    for lr in (0.0005, 0.002, 0.001):
        assert f"hashed at 10% · seed 0 (tuning trial: lr = {lr}): valid AUC" in told
    trials = pl.read_parquet(out / "trials.parquet")
    assert trials.group_by("method", "budget").len()["len"].unique().to_list() == [3]
    assert trials["seed"].unique().to_list() == [0]
    assert trials["auc"].null_count() == trials.height
    assert set(plan.chosen()) == {spec.cell for spec in plan.runs()}
    assert all(spec.training["lr"] == 0.002 for spec in plan.runs()), "the fake's validation AUC grows with lr"
    assert results(out).height == 21


def test_tuning_at_one_budget_serves_all(sweep_file: Path, tmp_path: Path) -> None:
    sweep_file.write_text(CONFIG + '\n[tuning]\nbudget = "10%"\ngrid = { lr = [0.001, 0.002] }\n')
    plan, _ = run(sweep_file, tmp_path / "out")
    assert len(plan.trial_specs()) == 3 * 2
    assert {spec.training["lr"] for spec in plan.runs()} == {0.002}


def test_two_sweeps_do_not_share_a_folder(sweep_file: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out"), pytest.raises(SweepFolderError, match="another sweep is running"):
        run(sweep_file, tmp_path / "out")


def test_plan_is_read_back_from_the_folder(finished: Path, tmp_path: Path) -> None:
    again = plan_from_folder(finished / "out")
    assert len(again.runs()) == 21
    assert collect_results(again).equals(results(finished / "out"))
    with pytest.raises(SweepFolderError, match=r"no sweep\.json"):
        plan_from_folder(tmp_path)

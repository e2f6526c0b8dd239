"""Ctrl-C: a long command ends, leaves nothing half-made, and says how to go on. Endless runs stand for long ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sweep_fakes import CONFIG, RUNNER, fake_dataset

from rectab import cli
from rectab import sweep as sweep_package
from rectab.data import Recipe, prepare
from rectab.sweep.sweep import run_sweep
from rectab.waiting import result_of, worker_threads

ENDLESS = {"max_epochs": 10**9, "patience": 10**9, "batch_size": 300, "checkpoint_seconds": 0.2}
SMALL = {"rows": 900, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}
SWEEP = """
budgets = ["50%"]
seeds = [0, 1]
embedding_dim = 4
jobs = 2
datasets = [{{ path = "{path}" }}]
models = [{{ model = "lr" }}]
methods = [{{ method = "hashed" }}]
[training]
{training}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.model_validate({"name": "small", "synthetic": SMALL})
    return prepare(recipe, None, tmp_path_factory.mktemp("data") / "small").path


def stopped(arguments: list[str], begun: Callable[[], bool]) -> str:
    """What ``rectab ARGUMENTS``, a group of processes of its own, says when Ctrl-C reaches the group in mid-run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rectab", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
    )
    try:
        while not begun() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    return told


def test_a_sweep_ends_with_its_workers_and_goes_on_later(data: Path, tmp_path: Path) -> None:
    """Its workers train for ever: only Ctrl-C can end it."""
    training = "\n".join(f"{key} = {value}" for key, value in ENDLESS.items())
    (tmp_path / "sweep.toml").write_text(SWEEP.format(path=data, training=training))
    out = tmp_path / "out"

    def both_run() -> bool:
        return len(list(out.glob("work/*/checkpoints/current.safetensors"))) == 2

    told = stopped(["sweep", str(tmp_path / "sweep.toml"), "--out", str(out)], both_run)
    assert f"stopped; finished runs are kept in {out}, and the same command goes on" in told
    assert both_run(), "what the runs had reached is kept"
    assert not list(out.glob("runs/*")), "a run that was stopped has not failed"
    workers = [p for p in psutil.process_iter() if any(str(out) in part for part in _command_of(p))]
    assert not workers


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_training_says_that_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    settings = [part for key, value in ENDLESS.items() for part in ("--set", f"train.{key}={value}")]
    command = ["train", str(data), "--model", "lr", "--out", str(tmp_path / "run"), *settings]
    told = stopped(command, (tmp_path / "run" / "checkpoints" / "current.safetensors").exists)
    assert f"stopped; the same command goes on from its last checkpoint in {tmp_path / 'run'}" in told


@pytest.fixture
def rectab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rectab", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_what_is_left_is_said(
    rectab: Callable[..., tuple[int, str]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rectab.data.prepare", interrupted)
    code, told = rectab("prepare", "synthetic", "--out", tmp_path / "out")
    assert code == 130
    assert f"stopped; nothing was written to {tmp_path / 'out'}, and the same command starts over" in told
    monkeypatch.setattr("rectab.training.train_once", interrupted)
    assert "nothing of the run is kept; with --out FOLDER" in rectab("train", data)[1]
    assert "no checkpoint was due yet" in rectab("train", data, "--out", tmp_path / "run")[1]


def test_a_sweep_with_failed_runs_says_why_and_fails(
    rectab: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every start, until they are run again and succeed."""
    (tmp_path / "sweep.toml").write_text(CONFIG)

    def faked(config: Path, out: Path, **options: object) -> object:
        return run_sweep(config, out, runner=RUNNER, datasets=[fake_dataset()], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep_package, "run_sweep", faked)
    monkeypatch.setenv("SWEEP_TRAP", '{"method": "hashed", "kind": "raise"}')
    command = ("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "out")
    for _ in range(2):
        code, told = rectab(*command)
        assert code == 1
        assert "rectab: 9 runs failed; --retry-failed runs them again" in told
        assert told.count("FloatingPointError: the loss became NaN in step 17") == 1
        assert "clicks · deepfm · hashed at 2% · seed 2" in told
    monkeypatch.delenv("SWEEP_TRAP")
    assert rectab(*command, "--retry-failed") == (0, "")


def test_a_wait_for_a_thread_ends_on_ctrl_c() -> None:
    """Also where SIGINT restarts a blocked wait, as it does once polars is imported: the thread waits for its end."""
    release, started = threading.Event(), threading.Event()

    def interrupt() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    def wait_for_a_thread() -> None:
        with worker_threads(1) as pool:
            job = pool.submit(release.wait)
            started.set()
            result_of(job)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_a_thread()
    finally:
        release.set()
        signal.signal(signal.SIGINT, before)

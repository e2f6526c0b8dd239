"""A run killed at any moment goes on to the very same result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import run_with_kills, tiny_dataset

from rectab.models import ModelConfig
from rectab.sweep import runner
from rectab.sweep.grid import RunSpec
from rectab.tables import TableOptions, plan
from rectab.training import CheckpointError, RunResult, TrainConfig, Trainer, train_once
from rectab.training.checkpoint import Checkpoints
from rectab.training.state import get_rng_state, load_state, save_state, set_rng_state

SETTINGS: dict[str, Any] = {
    "batch_size": 100,
    "lr": 0.01,
    "max_epochs": 4,
    "evaluations_per_epoch": 3,
    "patience": 100,
    "lr_patience": 1,
    "embedding_l2": 0.001,
    "checkpoint_seconds": 0.0,
}
TIMES = ("seconds", "peak_memory_bytes", "samples_per_second")


def run(out_dir: Path | None, **settings: Any) -> RunResult:
    torch.set_num_threads(1)
    return train_once(
        tiny_dataset(rows=2000),
        method="unified",
        budget="50%",
        model="deepfm",
        history="din",
        model_options={"hidden": (16, 8), "dropout": 0.2, "history": {"hidden": (8,)}},
        embedding_dim=4,
        train_config=TrainConfig(**{**SETTINGS, **settings}),
        out_dir=out_dir,
        progress="off",
    )


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not key.endswith(TIMES)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def comparable(result: RunResult) -> Any:
    plain = without_times(result.to_json())
    plain["train"].pop("checkpoint_seconds", None)
    return plain


@pytest.mark.parametrize("moments", [(0.15,), (0.05, 0.3, 0.3)])
def test_killed_in_mid_run_and_started_again_gives_the_same_result(tmp_path: Path, moments: tuple[float, ...]) -> None:
    undisturbed = run(None)
    out_dir = tmp_path / "run"
    code = f"from pathlib import Path; import test_training_checkpoints as t; t.run(Path({str(out_dir)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for moment in moments:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        # Wait for a checkpoint, so that the kill falls into training however slow the machine is.
        while process.poll() is None and not list(out_dir.glob("checkpoints/current*")):
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = run(out_dir)
    assert comparable(resumed) == comparable(undisturbed)
    assert not (out_dir / "checkpoints").exists()


def test_row_kernels_leave_torch_the_threads_it_was_given() -> None:
    code = """
import torch
from rectab.ops import RowStore
for threads in (1, 2):
    torch.set_num_threads(threads)
    RowStore(2000, 8)(torch.randint(0, 2000, (50_000,)))
    assert torch.get_num_threads() == threads, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("gradient", ["row", "dense", "sparse"])
def test_interrupted_at_every_kind_of_step(
    tmp_path: Path, gradient: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"gradient": gradient, "optimizer": optimizer, "max_epochs": 2}
    settings |= {"embedding_l2": 0.0} if gradient == "sparse" else {}
    undisturbed = run(None, **settings)
    resumed, calls = run_with_kills(monkeypatch, 9, lambda: run(tmp_path / "run", **settings))
    assert calls > 9
    assert comparable(resumed) == comparable(undisturbed)


def test_stages_that_ended_are_not_trained_again(tmp_path: Path) -> None:
    dataset = tiny_dataset(rows=1000)

    def trainer() -> Trainer:
        table = plan("full", dataset.schema.vocabularies, 4, options=TableOptions()).build()
        config = TrainConfig(batch_size=100, max_epochs=1)
        model = ModelConfig.from_options("mlp", interaction_options={"hidden": (8,), "dropout": 0.5})
        return Trainer(dataset, table, model, config, checkpoints=tmp_path / "c", progress="off")

    first = trainer()
    first.run("warm")
    drawn = torch.rand(3), np.random.rand(2), random.random()  # noqa: NPY002
    second = trainer()
    assert second.run("warm") == first.stages[0]["metrics"]
    again = torch.rand(3), np.random.rand(2), random.random()  # noqa: NPY002
    assert torch.equal(first.table.store.weight, second.table.store.weight)
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]
    assert second.stages == first.stages


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"train": {"seed": 0, "lr": 0.1}}, 1.0)
    Checkpoints(tmp_path, {"train": {"seed": 0, "lr": 0.1}}, 1.0)
    with pytest.raises(CheckpointError, match=r"other settings \(train\.seed: 0 there, 1 here\)"):
        Checkpoints(tmp_path, {"train": {"seed": 1, "lr": 0.1}}, 1.0)
    with pytest.raises(CheckpointError, match=r"\(train\.row_lr: not set there, None here\)"):
        Checkpoints(tmp_path, {"train": {"seed": 0, "lr": 0.1, "row_lr": None}}, 1.0)


def test_a_sweep_starts_a_run_over_that_another_number_of_threads_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_open", lambda path, fingerprint: tiny_dataset(rows=300))
    training = {"batch_size": 100, "max_epochs": 1}
    spec = RunSpec(
        "run", "tiny", "", "", "mlp", "mlp", "none", {"hidden": (8,)}, "full", "full", {}, None, 0, 4, training
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save_stage", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                runner.train_run(spec, tmp_path / "killed")
        assert (tmp_path / "killed/checkpoints/run.json").exists()
    finally:
        torch.set_num_threads(threads)
    resumed, undisturbed = runner.train_run(spec, tmp_path / "killed"), runner.train_run(spec, tmp_path / "other")
    assert without_times(resumed) == without_times(undisturbed)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_state_round_trips(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "tensors": [shared, shared.T, shared[0], torch.tensor(3), torch.empty(0, 2)],
        "by_number": {0: {"betas": (0.9, 0.999)}, 1: None},
        "text": "ä",
        "flag": True,
        "bf16": torch.ones(2, dtype=torch.bfloat16),
    }
    save_state(tmp_path / "s.safetensors", state)
    found = load_state(tmp_path / "s.safetensors")
    for mine, other in zip(found.pop("tensors"), state.pop("tensors"), strict=True):  # type: ignore[arg-type]
        assert torch.equal(mine, other)
    assert torch.equal(found.pop("bf16"), state.pop("bf16"))
    assert found == state
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]
    with pytest.raises(TypeError, match="cannot hold a set"):
        save_state(tmp_path / "t.safetensors", {1, 2})


def test_damaged_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "current.safetensors"
    save_state(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"current\.safetensors: damaged"):
        load_state(path)


def test_rng_state_round_trips_through_a_file(tmp_path: Path) -> None:
    save_state(tmp_path / "rng.safetensors", get_rng_state())
    drawn = torch.rand(4), np.random.rand(4), random.random()  # noqa: NPY002
    set_rng_state(load_state(tmp_path / "rng.safetensors"))
    assert torch.equal(drawn[0], torch.rand(4))
    assert np.array_equal(drawn[1], np.random.rand(4))  # noqa: NPY002
    assert drawn[2] == random.random()


def test_results_are_json(tmp_path: Path) -> None:
    result = run(None, max_epochs=1)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["slices"]["unseen"]["auc"] is None

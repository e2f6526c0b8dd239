"""A real run of a sweep: what it makes of the files that an earlier start of the same run left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from sweep_fakes import ENVIRONMENT
from training_helpers import tiny_dataset

from rectab.sweep import runner
from rectab.sweep.grid import RunSpec
from rectab.sweep.worker import execute
from rectab.training import CheckpointError
from rectab.training.checkpoint import Checkpoints
from rectab.training.state import load_state, save_state

TRAINING = {"batch_size": 100, "max_epochs": 2, "checkpoint_seconds": 0.0}
SPEC = RunSpec("run", "tiny", "", "", "mlp", "mlp", "none", {"hidden": (8,)}, "full", "full", {}, None, 0, 4, TRAINING)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_open", lambda path, fingerprint: tiny_dataset(rows=300))


def metrics(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["valid"], result["test"], [record["auc"] for record in result["history"]]


def interrupted(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of a run that was killed after its fifth one."""
    original, calls = Checkpoints.save_current, []

    def save_and_stop(self: Checkpoints, *arguments: Any) -> None:
        original(self, *arguments)
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_current", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            runner.train_run(SPEC, work)
    return work / "checkpoints"


def truncate(folder: Path) -> None:
    path = folder / "current.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder: Path) -> None:
    (folder / "current.safetensors").write_bytes(b"")


def lose_best_weights(folder: Path) -> None:
    (path,) = folder.glob("best-*.safetensors")
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, empty, lose_best_weights])
def test_a_run_whose_checkpoints_are_damaged_starts_over(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(interrupted(tmp_path / "killed", monkeypatch))
    assert metrics(runner.train_run(SPEC, tmp_path / "killed")) == metrics(runner.train_run(SPEC, tmp_path / "other"))


def test_damage_is_a_checkpoint_error_that_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "current.safetensors"
    with pytest.raises(CheckpointError, match=r"current\.safetensors: missing; delete its folder"):
        load_state(path)
    save_state(path, {"a": 1})
    truncated = path.read_bytes()[:20]
    for content in (b"", truncated, b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"current\.safetensors: damaged .*delete its folder"):
            load_state(path)
    for tree, message in ((None, "not a rectab state"), ("{", "damaged"), ('{"tensor": "7"}', "damaged")):
        save_file({}, path, metadata={"other": "x"} if tree is None else {"rectab_state": tree})
        with pytest.raises(CheckpointError, match=message):
            load_state(path)


def test_a_finished_run_that_must_not_count_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"

    def without_auc(spec: RunSpec, folder: Path) -> dict[str, Any]:
        result = runner.train_run(spec, folder)
        return {**result, "test": {**result["test"], "auc": None}}

    assert execute(SPEC, work, without_auc, ENVIRONMENT)["status"] == "failed"
    assert not work.exists()
    assert execute(SPEC, work, runner.train_run, ENVIRONMENT)["status"] == "ok"
    assert (work / "result.json").exists()

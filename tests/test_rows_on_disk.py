"""Rows in memory-mapped files: the same training, killed anywhere without loss, and no copy of the table anywhere."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_checkpoints import comparable
from training_helpers import _Killed, run_with_kills, tiny_dataset

from rectab.ops import RowStore
from rectab.ops.mapped import MappedFiles
from rectab.optim import RowAdam
from rectab.optim.journal import RowJournal
from rectab.tables import files as table_files
from rectab.tables.files import read_file, write_file
from rectab.training import RunResult, TrainConfig, load_model, train_once
from rectab.training.checkpoint import Checkpoints

SETTINGS = TrainConfig(
    batch_size=100,
    lr=0.01,
    max_epochs=3,
    evaluations_per_epoch=3,
    embedding_l2=0.001,
    embedding_l2_mode="lazy",
    checkpoint_seconds=0.0,
    precision="fp32",
)


def run(
    out_dir: Path | None, rows_in: Path | None, method: str = "full", rows: str = "fp32", config: TrainConfig = SETTINGS
) -> RunResult:
    torch.set_num_threads(1)
    return train_once(
        tiny_dataset(700),
        method=method,
        budget=None if method == "full" else "40%",
        rows=rows,
        model="mlp",
        history="mean",
        model_options={"hidden": (8,)},
        embedding_dim=4,
        train_config=config,
        out_dir=out_dir,
        rows_in=rows_in,
        progress="off",
    )


def told(result: RunResult) -> Any:
    """All but times, and pages that the system had to read."""
    stages = [{**stage, "page_ins": 0} for stage in result.stages]
    return comparable(replace(result, stages=stages))


@pytest.mark.parametrize(
    ("method", "rows", "state"),
    [("full", "fp32", "fp32"), ("full", "int8", "int8"), ("unified", "bf16", "bf16"), ("alpt", "fp32", "fp32")],
)
def test_training_is_that_in_memory_also_when_it_is_killed(
    method: str, rows: str, state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SETTINGS, row_state=state)
    in_memory = run(tmp_path / "memory", None, method, rows, config)
    on_disk = run(tmp_path / "disk", tmp_path / "rows", method, rows, config)
    assert told(on_disk) == told(in_memory)
    assert not list((tmp_path / "rows").iterdir()), "its files are gone when it has finished"
    resumed, calls = run_with_kills(
        monkeypatch, 5, lambda: run(tmp_path / "killed", tmp_path / "again", method, rows, config)
    )
    assert calls > 15
    assert told(resumed) == told(in_memory)
    models = [load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("memory", "disk", "killed")]
    assert all(torch.equal(tensor, other[key]) for other in models[1:] for key, tensor in models[0].items())


def test_killed_between_checkpoints_and_within_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have gone on since the checkpoint: they are taken back to it."""
    expected = run(None, None)
    steps, original = 0, RowAdam.step

    def step(self: RowAdam, closure: Any = None) -> Any:
        nonlocal steps
        steps += 1
        if steps in (3, 9, 17, 18):
            for updater in self.rows.values():  # half of a step is done
                rows, gradients = updater.store.gradients.sum()
                half = len(rows) // 2
                updater.update(rows[:half], gradients[:half], 0.01)
            raise _Killed
        return original(self, closure)

    monkeypatch.setattr(RowAdam, "step", step)
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None and steps % 4 == 0)
    for _ in range(5):
        try:
            result = run(tmp_path / "run", tmp_path / "rows")
            break
        except _Killed:
            continue
    assert steps > 18
    assert told(result) == told(expected)


def test_checkpoints_hold_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[dict[str, Any]] = []
    original = Checkpoints.save_current

    def save(self: Checkpoints, stage: int, state: dict[str, Any], best: Any, *rest: Any) -> None:
        saved.append({**state, "best": best})
        original(self, stage, state, best, *rest)

    monkeypatch.setattr(Checkpoints, "save_current", save)
    run(tmp_path / "run", tmp_path / "rows")
    last = saved[-1]
    assert "table.store.weight" not in last["model"]
    assert "table.store.weight" not in last["best"]
    assert set(last["optimizers"][-1]["state"]) == set()
    assert last["rows on disk"]["generation"] == len(saved)


def test_a_folder_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(_Killed):
        run_with_kills_once(monkeypatch, lambda: run(tmp_path / "run", tmp_path / "rows"))
    with pytest.raises(ValueError, match="holds the rows of another run"):
        run(tmp_path / "other", tmp_path / "rows", config=replace(SETTINGS, lr=0.02))
    with pytest.raises(ValueError, match="of a later moment than the checkpoint"):
        run(tmp_path / "other", tmp_path / "rows")


def run_with_kills_once(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """At its third checkpoint."""
    with monkeypatch.context() as patched:
        original, calls = Checkpoints.save_current, []

        def save(self: Checkpoints, *arguments: Any) -> None:
            original(self, *arguments)
            calls.append(1)
            if len(calls) == 3:
                raise _Killed

        patched.setattr(Checkpoints, "save_current", save)
        run()


def test_what_cannot_be_trained_so_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embedding_l2_mode to 'lazy'"):
        run(None, tmp_path / "rows", config=replace(SETTINGS, embedding_l2_mode="full"))
    with pytest.raises(ValueError, match="trains in stages of its own"):
        run(None, tmp_path / "rows", method="optembed", config=replace(SETTINGS, embedding_l2=0.0))
    with pytest.raises(ValueError, match="gradient 'row'"):
        run(None, tmp_path / "rows", config=replace(SETTINGS, gradient="dense", embedding_l2=0.0))


def test_files_are_opened_again_as_they_were(tmp_path: Path) -> None:
    stores = []
    for seed in (0, 1):
        files = MappedFiles(tmp_path / "rows", {"run": 1})
        assert files.reopened == bool(seed)
        with files.active():
            stores.append(RowStore(50, 4, generator=torch.Generator().manual_seed(seed)))
        assert files.owns(stores[-1].weight)
        files.keep()
    assert torch.equal(stores[0].weight, stores[1].weight)
    with pytest.raises(ValueError, match="not the rows that"):
        MappedFiles(tmp_path / "rows", {"run": 1}).empty(50, 5, dtype=torch.float32)
    assert not MappedFiles(tmp_path / "other", {}).reopened


def test_a_journal_takes_rows_back_and_passes_over_a_record_that_was_cut_short(tmp_path: Path) -> None:
    rows, state = torch.randn(20, 3), torch.arange(20, dtype=torch.int32)
    first = copy.deepcopy((rows, state))
    journal = RowJournal(tmp_path / "j", {"a": [rows, state]})
    for at in (torch.tensor([3, 4, 3]), torch.tensor([4, 9, -1])):
        journal.note("a", at)
        rows[at[at >= 0]] += 1
        state[at[at >= 0]] = -1
    length = journal.length
    journal.note("a", torch.tensor([15]))
    journal.close()
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-5])  # killed within the record, so 15 was not written
    again = RowJournal(tmp_path / "j", {"a": [rows, state]})
    assert again.length == length
    again.note("a", torch.tensor([3, 9]))
    assert again.length == length, "rows that are noted are noted once"
    again.roll_back()
    assert torch.equal(rows, first[0])
    assert torch.equal(state, first[1])


def test_a_large_file_is_written_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {
        "a": torch.randn(7, 3),
        "b": torch.arange(5, dtype=torch.int32),
        "c": torch.randn(4, 2).bfloat16(),
        "d": torch.tensor(3.0, dtype=torch.float64),
        "e": torch.tensor([True, False]),
    }
    monkeypatch.setattr(table_files, "_STREAMED_FROM", 0)
    write_file(tmp_path / "f.safetensors", "thing", 1, {"x": 1}, tensors)
    description, read = read_file(tmp_path / "f.safetensors", "thing", 1)
    assert description["x"] == 1
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())

"""The best rows as a log: the weights of a copy, also of a run that was killed, and no copy in its checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_checkpoints import comparable
from training_helpers import run_with_kills, tiny_dataset

from rectab.training import RunResult, TrainConfig, load_model, train_once
from rectab.training.checkpoint import Checkpoints

SETTINGS = TrainConfig(
    batch_size=100, lr=0.05, max_epochs=3, evaluations_per_epoch=3, checkpoint_seconds=0.0, precision="fp32"
)


def run(out_dir: Path | None, best: Any, method: str, rows: str, decay: float) -> RunResult:
    torch.set_num_threads(1)
    return train_once(
        tiny_dataset(700),
        method=method,
        budget=None if method == "full" else "60%",
        rows=rows,
        model="mlp",
        model_options={"hidden": (8,)},
        embedding_dim=4,
        train_config=replace(SETTINGS, best_weights=best, embedding_l2=decay),
        out_dir=out_dir,
        progress="off",
    )


def told(result: RunResult) -> Any:
    """All but times, and how the best rows were kept."""
    stages = [{**stage, "table_training_bytes": 0} for stage in result.stages]
    table = {k: v for k, v in result.table.items() if not k.startswith("training_bytes")}
    return comparable(replace(result, stages=stages, train={}, table=table, training_bytes=0))


@pytest.mark.parametrize(
    ("method", "rows", "decay"), [("full", "fp32", 0.0), ("full", "int8", 0.01), ("cafe", "fp32", 0.01)]
)
def test_it_gives_the_weights_of_a_copy(
    method: str, rows: str, decay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Any] = []
    original = Checkpoints.save_current

    def save(self: Checkpoints, stage: int, state: Any, best: Any, *rest: Any) -> None:
        saved.append(best)
        original(self, stage, state, best, *rest)

    copied = run(tmp_path / "copy", "copy", method, rows, decay)
    if method == "full":
        assert copied.stages[0]["best_evaluation"] < copied.stages[0]["evaluations"], "rows went on after the best"
    monkeypatch.setattr(Checkpoints, "save_current", save)
    resumed, calls = run_with_kills(monkeypatch, 5, lambda: run(tmp_path / "log", "log", method, rows, decay))
    assert calls > 15
    assert told(resumed) == told(copied)
    assert not any("store" in name for name in saved[-1])
    one, other = (load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("copy", "log"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not list((tmp_path / "log").rglob("*.journal"))

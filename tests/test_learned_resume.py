"""A staged run killed at any step of any stage goes on to the very same table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_checkpoints import comparable
from training_helpers import counted, run_with_kills, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.training import RunResult, TrainConfig, train_once


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(800))


def run(dataset: PreparedDataset, out_dir: Path | None, method: str, options: dict[str, Any]) -> RunResult:
    torch.set_num_threads(1)
    config = TrainConfig(
        batch_size=100, lr=0.01, max_epochs=2, embedding_l2=0.001, checkpoint_seconds=0.0, precision="fp32"
    )
    return train_once(
        dataset,
        method=method,
        budget="40%",
        method_options=options,
        model="mlp",
        model_options={"hidden": (8,), "dropout": 0.2},
        embedding_dim=4,
        train_config=config,
        out_dir=out_dir,
        progress="off",
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("optembed", {"generations": 2, "population": 4, "threshold_lr": 1.0, "alpha": 1e-2}),
        ("dnis", {"alpha_lr": 0.05}),
        ("pruned", {}),
        ("deeplight", {"every": 2, "prune_epochs": 1}),
        ("pep", {"rise": 0.3}),
        ("autodim", {"alpha_lr": 0.1}),
        ("dnis", {"alpha_lr": 0.05, "second_order": True}),
    ],
)
def test_interrupted_in_every_stage(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    undisturbed = run(dataset, None, method, options)
    resumed, calls = run_with_kills(monkeypatch, 7, lambda: run(dataset, tmp_path / "run", method, options))
    steps = [stage["steps"] for stage in undisturbed.stages if stage["steps"]]
    assert calls >= sum(steps)
    assert len(steps) > 1
    assert min(steps) > 7, "a kill falls into every stage that trains"
    assert comparable(resumed) == comparable(undisturbed)

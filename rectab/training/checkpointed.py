"""What a folder of checkpoints says of its run, so that no other run goes on from it."""

from __future__ import annotations

from typing import Any

import torch

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.processes import current
from rectab.tables.base import EmbeddingTable
from rectab.tables.registry import find_record
from rectab.training.config import TrainConfig

__all__ = ["comparable", "told_of_run"]

_OF_SEVERAL = ("processes", "threads")


def told_of_run(
    dataset: PreparedDataset, table: EmbeddingTable, model: ModelConfig, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Plain data of everything that the numbers of a run depend on."""
    run: dict[str, Any] = {
        "train": config.to_json(),
        "model": model.to_json(),
        "dataset": dataset.fingerprint(),
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "table": str(table.config),
        "threads": torch.get_num_threads(),  # sums are not the same with another number
    }
    if processes := current():
        run["processes"] = processes.count
    if (revision := find_record(table.method).revision) != 1:
        run["revision"] = revision
    if table.options.rows != "fp32":
        run["rows"] = table.options.rows
    if device.type != "cpu":
        run["device"] = torch.cuda.get_device_name(device)  # sums are not the same on another
    return run


def comparable(*runs: Any) -> list[Any]:
    """Both without what need not be the same: a run of several processes goes on in any number of them, each with as
    many threads as it likes; the order of its sums changes with that."""
    if not any(isinstance(run, dict) and "processes" in run for run in runs):
        return list(runs)
    return [{k: v for k, v in r.items() if k not in _OF_SEVERAL} if isinstance(r, dict) else r for r in runs]

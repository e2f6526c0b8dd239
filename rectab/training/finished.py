"""A folder that holds the result of a run that has finished: read back, not trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.plain import parse_json
from rectab.processes import leads
from rectab.tables import Plan
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.checkpoint import differences
from rectab.training.config import TrainConfig
from rectab.training.errors import CheckpointError
from rectab.training.measuring import attention_weights, metrics_on_test
from rectab.training.result import RunResult

__all__ = ["RESULT_FILE", "check_data", "complete", "identity_of", "load_result", "planned_identity", "read_finished"]

RESULT_FILE = "result.json"


def load_result(folder: Path) -> RunResult | None:
    """The result that ``folder`` holds; None if it holds none. Raises ValueError for one that cannot be read."""
    path = folder / RESULT_FILE
    try:
        return RunResult.from_json(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from error


def check_data(folder: Path, result: RunResult, dataset: PreparedDataset) -> None:
    """Raises ValueError if the run in ``folder`` was trained on other data than ``dataset``."""
    if result.fingerprint != dataset.fingerprint():
        raise ValueError(
            f"{folder}: trained on {result.dataset} ({result.fingerprint}), and {dataset.path} holds {dataset.name} "
            f"({dataset.fingerprint()}); give the data set that the run was trained on"
        )


def read_finished(
    folder: Path, dataset: PreparedDataset, planned: Plan, model: ModelConfig, config: TrainConfig
) -> RunResult | None:
    """The result that ``folder`` holds of this run; None if it holds none.

    Raises:
        CheckpointError: it holds the result of another run, or one that cannot be read.
    """
    path = folder / RESULT_FILE
    try:
        result = load_result(folder)
    except ValueError as error:
        raise CheckpointError(f"{error}; delete it to train the run again") from error
    if result is None:
        return None
    try:
        identity = identity_of(result)
    except (TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{_damaged(path, error)}; delete it to train the run again") from error
    if other := differences(identity, planned_identity(dataset, planned, model, config)):
        raise CheckpointError(
            f"{folder}: holds the result of a run with other settings ({'; '.join(other)}); use another folder, or "
            "delete this one"
        )
    return replace(result, table=planned.to_json())


def _damaged(path: Path, error: Exception) -> str:
    return f"{path}: damaged, or of another version of rectab ({error})"


def complete(
    result: RunResult,
    folder: Path,
    dataset: PreparedDataset,
    config: TrainConfig,
    read_test: bool,
    explain_rows: int,
    device: torch.device | str = "cpu",
) -> RunResult:
    """The finished run's result with what is asked for: what was not measured then is measured of the saved model,
    on ``device``.

    Raises:
        FileNotFoundError: the model is needed and is not in ``folder``.
    """
    add_test, add_attention = read_test and result.test is None, explain_rows > 0 and not result.attention
    if add_test or add_attention:
        model = load_model(folder / MODEL_FILE, device=device)
        if add_test:
            test, slices = metrics_on_test(model, dataset, config, folder if leads() else None)
            result = replace(result, test=test, slices=slices)
        if add_attention:
            result = replace(result, attention=attention_weights(model, dataset, explain_rows))
        if leads():
            result.save(folder / RESULT_FILE)
    return result if read_test else replace(result, test=None, slices={})


def identity_of(result: RunResult) -> dict[str, Any]:
    """What makes a finished run another one, as plain data."""
    return _identity(result.fingerprint, result.table, result.model, result.train)


def planned_identity(
    dataset: PreparedDataset, planned: Plan, model: ModelConfig, config: TrainConfig
) -> dict[str, Any]:
    """:func:`identity_of` the run that this would be."""
    asked = _identity(dataset.fingerprint(), planned.to_json(), model.to_json(), config.to_json())
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _identity(
    fingerprint: str, table: Mapping[str, Any], model: Mapping[str, Any], train: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes a run another one, as plain data."""
    planned = {key: table[key] for key in ("method", "embedding_dim", "budget_bytes", "config")}
    # How often a run was saved changes nothing of its result.
    # Settings that came later are left out where they are as it was before them.
    later = {"row_state": "fp32", "row_square": "element", "best_weights": "copy"}
    settings = {k: v for k, v in train.items() if k != "checkpoint_seconds" and not (k in later and later[k] == v)}
    planned |= {"revision": table.get("revision", 1), "rows": table.get("rows", "fp32")}
    planned |= {"count_ids": True} if table.get("count_ids") else {}  # left out where it was, before there was a choice
    return {"dataset": fingerprint, "table": planned, "model": model, "train": settings}

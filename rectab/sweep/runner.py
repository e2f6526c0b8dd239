"""One real run of a sweep: open the prepared data set, train, measure."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

from rectab.data import PreparedDataset
from rectab.sweep.grid import RunSpec
from rectab.training.config import TrainConfig
from rectab.training.errors import CheckpointError
from rectab.training.run import train_once
from rectab.training.shared import SharedRuns

__all__ = ["train_run"]

EXPLAINED_ROWS = 3


@lru_cache(maxsize=2)
def _open(path: str, fingerprint: str) -> PreparedDataset:
    dataset = PreparedDataset.open(path)
    if dataset.fingerprint() != fingerprint:
        raise ValueError(f"{path}: not the data set that the sweep started with; start the sweep again")
    return dataset


@lru_cache(maxsize=1)
def _shared(folder: str) -> SharedRuns:
    return SharedRuns(Path(folder))


def train_run(spec: RunSpec, work: Path) -> dict[str, Any]:
    """Train what ``spec`` says; checkpoints go to ``work``, from which a killed run resumes.

    A run whose checkpoints are damaged starts over, and so does one that was killed under another ``--jobs``: with
    another number of threads it would not give the result of an undisturbed one.

    Returns:
        :class:`rectab.training.result.RunResult` as plain data.

    Raises:
        InfeasibleBudget: the method cannot serve these vocabularies within the budget, or not be trained within memory.
        TrainingError: training diverged.
        ValueError: an option or setting is not valid.
    """
    try:
        return _train(spec, work)
    except CheckpointError:
        shutil.rmtree(work)
        return _train(spec, work)


def _train(spec: RunSpec, work: Path) -> dict[str, Any]:
    result = train_once(
        _open(spec.dataset_path, spec.fingerprint),
        method=spec.method,
        budget=spec.budget,
        method_options=spec.method_options,
        rows=spec.rows,
        train_memory=spec.train_memory,
        count_ids=spec.count_ids,
        model=spec.model,
        history=spec.history,
        embedding_dim=spec.embedding_dim,
        train_config=TrainConfig.from_json({"seed": spec.seed, **spec.training}),
        model_options=spec.model_options,
        out_dir=work,
        # A tuning trial must not be able to choose by test.
        read_test=spec.role == "run",
        # The report draws what the attention looks at, on the full table.
        explain_rows=EXPLAINED_ROWS if spec.role == "run" and spec.method == "full" else 0,
        shared=None if spec.trained is None else _shared(spec.trained),
        progress="off",
        device=spec.device,
    )
    return result.to_json()

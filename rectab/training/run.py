"""Train one table in one model on one data set, and measure it: what the CLI and the sweep call."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rectab import __version__
from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.tables import Plan, TableOptions, plan
from rectab.tables.base import EmbeddingTable
from rectab.training.artifact import MODEL_FILE, save_model
from rectab.training.checkpoint import remove_checkpoints
from rectab.training.config import TrainConfig
from rectab.training.finished import RESULT_FILE, complete, read_finished
from rectab.training.measuring import attention_weights, metrics_on_test
from rectab.training.precision import device_of, peak_memory_bytes, reset_peak_memory
from rectab.training.progress import ProgressMode
from rectab.training.result import RunResult
from rectab.training.trainer import Trainer

__all__ = ["model_config", "train_once"]


def train_once(
    dataset: PreparedDataset,
    *,
    method: str,
    budget: str | int | None = None,
    method_options: Mapping[str, Any] | None = None,
    rows: str = "fp32",
    train_memory: str | int | None = None,
    model: str = "deepfm",
    history: str = "none",
    model_options: Mapping[str, Any] | None = None,
    embedding_dim: int = 16,
    train_config: TrainConfig | None = None,
    out_dir: Path | None = None,
    read_test: bool = True,
    explain_rows: int = 0,
    progress: ProgressMode = "auto",
    say: Callable[[str], None] | None = None,
) -> RunResult:
    """Plan the table, train, and measure; a run that ``out_dir`` holds the result of is not trained again.

    Args:
        dataset: the data.
        method: of the table, see ``rectab tables``.
        budget: bytes of the serving form, such as ``"10%"`` or ``"1MiB"``; None or ``"none"`` without a budget.
        method_options: of the method, see ``rectab plan``.
        rows: how the table's rows are held, see :mod:`rectab.ops.formats`.
        train_memory: most bytes that training the table may take; None sets no limit.
        model: the interaction.
        history: the history tower.
        model_options: of the interaction; under the key ``history`` a mapping of the tower's options.
        embedding_dim: D.
        train_config: how to train.
        out_dir: where checkpoints, the trained model and ``result.json`` go; an interrupted run goes on from there, and
            a finished one is read back.
        read_test: False leaves the test split alone, for runs that only choose settings. Asked for later, it is read
            for the finished run.
        explain_rows: validation rows whose attention weights the result keeps, if the model has attention.
        progress: see :class:`rectab.training.progress.Reporter`.
        say: called with a line of text if a finished run is read back.

    Raises:
        InfeasibleBudget: the method cannot serve these vocabularies within the budget, or cannot be trained within
            ``train_memory``.
        ValueError: an option or setting is not valid.
        CheckpointError: ``out_dir`` holds another run, or files that are damaged.
        FileNotFoundError: the finished run in ``out_dir`` has lost its model, which is to be measured.
        TrainingError: training diverged.
    """
    begin = time.perf_counter()
    config = train_config or TrainConfig()
    reset_peak_memory()
    planned = plan(
        method,
        dataset.schema.vocabularies,
        embedding_dim,
        budget,
        options=TableOptions(gradient=config.gradient, seed=config.seed, rows=rows),
        train_memory=train_memory,
        optimizer=config.row_optimizer or config.optimizer,
        **(method_options or {}),
    )
    made = model_config(model, history, model_options)
    if out_dir is not None:
        if finished := read_finished(out_dir, dataset, planned, made, config):
            remove_checkpoints(out_dir / "checkpoints")  # it may have been killed before it came to that
            if say is not None:
                path = out_dir / RESULT_FILE
                say(f"{path}: this run has finished and is read back; delete the file to train it again")
            return complete(finished, out_dir, dataset, config, read_test, explain_rows)
        out_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        dataset,
        planned.build(),
        made,
        config,
        checkpoints=None if out_dir is None else out_dir / "checkpoints",
        progress=progress,
    )
    trainer.restart(trainer.fit().serving(), trainer.model.state_dict())
    result = _measure(trainer, planned, read_test, explain_rows, begin)
    if out_dir is not None:
        save_model(trainer.model, out_dir / MODEL_FILE)
        result.save(out_dir / RESULT_FILE)
        trainer.checkpoints.remove()
    return result


def model_config(model: str, history: str, options: Mapping[str, Any] | None = None) -> ModelConfig:
    """A model's config from its names and its options; ``options["history"]`` are those of the tower."""
    interaction_options = dict(options or {})
    history_options = interaction_options.pop("history", {})
    return ModelConfig.from_options(model, history, interaction_options, history_options)


def _measure(trainer: Trainer, planned: Plan, read_test: bool, explain_rows: int, begin: float) -> RunResult:
    """Evaluate the serving form and gather everything."""
    config, dataset, table = trainer.config, trainer.dataset, trainer.table
    evaluation_begin = time.perf_counter()
    valid = trainer.evaluate("valid")
    test, slices = metrics_on_test(trainer.model, dataset, config) if read_test else (None, {})
    test_seconds = time.perf_counter() - evaluation_begin
    train_seconds = sum(stage["seconds"] for stage in trainer.stages)
    samples = sum(stage["samples"] for stage in trainer.stages)
    return RunResult(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        method=planned.method,
        table=planned.to_json(),
        model=trainer.model_config.to_json(),
        train=config.to_json(),
        valid=valid,
        test=test,
        slices=slices,
        budget_bytes=planned.budget_bytes,
        serving_bytes=_serving_bytes(table, planned),
        training_bytes=max((stage["table_training_bytes"] for stage in trainer.stages), default=0),
        dense_bytes=sum(p.numel() * p.element_size() for p in trainer.model.dense_parameters()),
        train_seconds=train_seconds,
        evaluation_seconds=sum(stage["evaluation_seconds"] for stage in trainer.stages),
        test_seconds=test_seconds,
        wall_seconds=time.perf_counter() - begin,
        samples=samples,
        samples_per_second=samples / train_seconds if train_seconds else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
        threads=torch.get_num_threads(),
        precision=trainer.precision,
        gradient=config.gradient,
        kernel=trainer.kernel,
        device=device_of(trainer.model),
        slice_by=dataset.schema.slice_by,
        versions={
            "python": platform.python_version(),
            "rectab": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        stages=trainer.stages,
        history=trainer.history,
        learned=[finding.to_json() for finding in table.learned()],
        attention=attention_weights(trainer.model, dataset, explain_rows),
    )


def _serving_bytes(table: EmbeddingTable, planned: Plan) -> int:
    size = table.ledger().bytes
    if planned.budget_bytes is not None and size > planned.budget_bytes:
        raise AssertionError(f"{planned.method}: {size} bytes for a budget of {planned.budget_bytes}: a bug of rectab")
    return size

"""Train one table in one model on one data set, and measure it: what the CLI and the sweep call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rectab.data.dataset import PreparedDataset
from rectab.id_bytes import map_bytes
from rectab.models import ModelConfig
from rectab.processes import current, leads
from rectab.tables import TableOptions, get_method, plan
from rectab.tables.registry import shares_training
from rectab.training.checkpoint import remove_checkpoints
from rectab.training.config import TrainConfig
from rectab.training.device import resolve_device
from rectab.training.finished import RESULT_FILE, complete, planned_identity, read_finished
from rectab.training.inputs_file import INPUTS_FILE, write_inputs
from rectab.training.one_run import OneRun
from rectab.training.precision import reset_peak_memory
from rectab.training.progress import ProgressMode
from rectab.training.replicas import check_replicas, check_shards
from rectab.training.result import RunResult
from rectab.training.shared import SharedRuns

__all__ = ["model_config", "train_once"]


def train_once(
    dataset: PreparedDataset,
    *,
    method: str,
    budget: str | int | None = None,
    method_options: Mapping[str, Any] | None = None,
    rows: str = "fp32",
    train_memory: str | int | None = None,
    count_ids: bool = False,
    model: str = "deepfm",
    history: str = "none",
    model_options: Mapping[str, Any] | None = None,
    embedding_dim: int = 16,
    train_config: TrainConfig | None = None,
    out_dir: Path | None = None,
    read_test: bool = True,
    explain_rows: int = 0,
    shared: Path | SharedRuns | None = None,
    rows_in: Path | None = None,
    shard: Literal["auto", "table_wise", "column_wise", "row_wise"] | None = None,
    progress: ProgressMode = "auto",
    device: torch.device | str = "cpu",
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
        count_ids: the budget is for the table and the map from raw values to ids together.
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
        shared: folder of finished runs (:mod:`rectab.training.shared`): one that is this run, or that this run's table
            is encoded of, is read and not trained; what is trained is kept there. None: a run's own folder ``trained``
            within ``out_dir`` keeps what its table is encoded of.
        rows_in: folder in which the table's rows and the optimizer's state lie as memory-mapped files while it trains
            (:mod:`rectab.training.rows_on_disk`): they may be larger than memory. None keeps them in memory.
        shard: of several processes, each holds a part of the rows, as torchrec's planner lays them out: by tables, by
            columns, by rows, or ``auto``, as it likes. None: each holds all of them.
        progress: see :class:`rectab.training.progress.Reporter`.
        device: where it is trained and measured, see :func:`rectab.training.device.resolve_device`. A finished run is
            read back whatever device it was trained on; its result names it.
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
    if processes := current():
        check_replicas(method, train_config or TrainConfig(), rows_in is not None, shared is not None)
        processes.agree("data set", f"{dataset.name} ({dataset.fingerprint()})")
    check_shards(train_config or TrainConfig(), shard)
    config, place = train_config or TrainConfig(), resolve_device(device)
    reset_peak_memory()
    planned = plan(
        method,
        dataset.schema.vocabularies,
        embedding_dim,
        budget,
        options=TableOptions(gradient=config.gradient, seed=config.seed, rows=rows),
        train_memory=train_memory,
        optimizer=config.row_training,
        map_bytes=map_bytes(dataset.schema),
        count_ids=count_ids,
        **(method_options or {}),
    )
    made = model_config(model, history, model_options)
    if processes:
        processes.agree("settings", str(planned_identity(dataset, planned, made, config)))
        processes.agree("files in --out", str(sorted(p.name for p in out_dir.rglob("*.*")) if out_dir else ()))
    if out_dir is not None:
        if finished := read_finished(out_dir, dataset, planned, made, config):
            if leads():
                remove_checkpoints(out_dir / "checkpoints")  # it may have been killed before it came to that
            if say is not None:
                path = out_dir / RESULT_FILE
                say(f"{path}: this run has finished and is read back; delete the file to train it again")
            if leads() and not (out_dir / INPUTS_FILE).exists():  # finished by a rectab of before there was one
                write_inputs(dataset, out_dir)
            return complete(finished, out_dir, dataset, config, read_test, explain_rows, place)
        out_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(shared, Path):
        shared = SharedRuns(shared)
    run = OneRun(dataset, planned, made, config, read_test, explain_rows, progress, place, begin, rows_in, shard)
    if get_method(method).trained_as is not None:
        return run.encode(shared, out_dir)
    if shared is None or out_dir is None or not shares_training(method):
        return run.train(out_dir)
    return run.take(shared, out_dir)


def model_config(model: str, history: str, options: Mapping[str, Any] | None = None) -> ModelConfig:
    """A model's config from its names and its options; ``options["history"]`` are those of the tower."""
    interaction_options = dict(options or {})
    history_options = interaction_options.pop("history", {})
    return ModelConfig.from_options(model, history, interaction_options, history_options)

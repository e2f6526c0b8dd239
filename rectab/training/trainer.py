"""The trainer: trains one model over one table, in as many stages as the table's method has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.data.dataset import PreparedDataset
from rectab.data.loader import num_batches
from rectab.data.split import Split
from rectab.models import CTRModel, ModelConfig
from rectab.models.elastic import ElasticModel
from rectab.plain import read_plain
from rectab.processes import current, leads
from rectab.tables.base import EmbeddingTable
from rectab.tables.registry import find_record
from rectab.training.checkpoint import Checkpoints
from rectab.training.checkpointed import told_of_run
from rectab.training.config import TrainConfig
from rectab.training.device import batches_on, resolve_device
from rectab.training.elastic import elastic_loss, width_aucs
from rectab.training.evaluation import evaluate
from rectab.training.optimizers import OptimizerSet
from rectab.training.precision import resolve_precision
from rectab.training.progress import ProgressMode, Reporter
from rectab.training.replicas import Replicas, check_replicas
from rectab.training.row_shards import RowShards
from rectab.training.rows_on_disk import RowsOnDisk
from rectab.training.stage import Stage
from rectab.training.stage_state import StageRecord
from rectab.training.state import get_rng_state, restored_from, seed_everything, set_rng_state
from rectab.training.topk.interactions import positives
from rectab.training.topk.objective import Ranking

__all__ = ["Trainer"]

_LOGLOSS = nn.functional.binary_cross_entropy_with_logits


class Trainer:
    """Trains a model; implements :class:`rectab.tables.staged.StageRunner` for the table's own stages.

    The validation split is cut in two (:meth:`rectab.data.Split.sample_halves`) for methods that learn from it: stages
    train on ``search`` and models are selected on ``valid``. Nothing here reads the test split.

    Args:
        dataset: the data.
        table: the table that training starts with.
        model_config: the model around it.
        config: how to train.
        checkpoints: folder of checkpoints; an interrupted run goes on from there. None keeps none.
        progress: see :class:`rectab.training.progress.Reporter`.
        split_validation: cut validation in two; None asks the table's method.
        rows_on_disk: the files in which the table's rows lie; None where they are in memory.
        device: where it trains, evaluates and searches, see :func:`rectab.training.device.resolve_device`. Weights
            start as the seed says on the CPU, wherever that is; metrics are computed on the host.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        table: EmbeddingTable,
        model_config: ModelConfig,
        config: TrainConfig,
        *,
        checkpoints: Path | None = None,
        progress: ProgressMode = "auto",
        split_validation: bool | None = None,
        rows_on_disk: RowsOnDisk | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = resolve_device(device)
        self.processes = current()
        if self.processes is not None:
            check_replicas(table.method, config, rows_on_disk is not None)
        self.rows_on_disk = rows_on_disk
        self.dataset = dataset
        self.config = config
        self.model_config = model_config
        if config.objective == "logloss" and not bool(np.isin(dataset.train.labels, (0.0, 1.0)).all()):
            raise ValueError(f"{dataset.name}: labels are not clicks (0 or 1); train on ratings with objective = 'mse'")
        ranks = config.objective == "topk"
        self.ranking = Ranking(dataset, config, self.device) if ranks else None
        self.train: Split = positives(dataset.train) if ranks else dataset.train
        self.valid: Split = positives(dataset.valid) if ranks else dataset.valid
        self._search: Split | None = None
        method = find_record(table.method)
        if method.learns_from_validation if split_validation is None else split_validation:
            self._search, self.valid = self.valid.sample_halves(config.seed)
        self._bf16, self.precision = resolve_precision(config.precision, self.device)
        self.reporter = Reporter(progress if leads() else "off")
        told = told_of_run(dataset, table, model_config, config, self.device)
        self.checkpoints = Checkpoints(checkpoints, told, config.checkpoint_seconds)
        self.stages: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.kernel = "torch"
        self.model = self._new_model(table)
        self._replicas: Replicas | None = None

    def _new_model(self, table: EmbeddingTable) -> CTRModel:
        seed_everything(self.config.seed)
        if self.config.elastic:
            widths, share = self.config.elastic, self.config.elastic_share
            return ElasticModel(self.dataset.schema, table, self.model_config, widths, share).to(self.device)
        return CTRModel(self.dataset.schema, table, self.model_config).to(self.device)

    @property
    def table(self) -> EmbeddingTable:
        return self.model.table

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.train), self.config.batch_size)

    @cached_property
    def id_counts(self) -> dict[str, np.ndarray] | None:
        """How often an epoch reads each id, where the penalty asks for it."""
        if self.config.embedding_l2_mode != "minibatch" or not self.config.embedding_l2:
            return None
        return self.train.occurrences(self.model_config.max_history)

    def fit(self) -> EmbeddingTable:
        """Train as the table's method wants; returns the table trained last. :attr:`model` holds it."""
        return self.table.train_with(self)

    def run(
        self,
        stage: str,
        *,
        max_epochs: int | None = None,
        loss_terms: Callable[[], Tensor] | None = None,
        frozen: Iterable[nn.Parameter] = (),
        extra_optimizers: Iterable[torch.optim.Optimizer] = (),
        after_step: Callable[[int], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> dict[str, float]:
        """Train until early stopping and load the best weights, see :class:`rectab.tables.staged.StageRunner`.

        A stage that ended before the run was interrupted is not trained again: its weights are loaded. What
        ``after_step`` keeps between steps must be in buffers or parameters of the table, or in ``extra_optimizers``, to
        be in the checkpoint.

        Raises:
            TrainingError: loss or predictions are not finite.
        """
        index = len(self.stages)
        kept = self.checkpoints.load_stage(index)
        if kept is None:
            epochs, hooks = max_epochs or self.config.max_epochs, (loss_terms, after_step, until)
            ended = self._train_stage(index, stage, epochs, frozen, extra_optimizers, hooks)
            if self.table.shards() is None:
                self.checkpoints.save_stage(index, ended)
            record = StageRecord(**ended["record"])
        else:
            path, ended = kept
            with restored_from(path):
                record = read_plain(StageRecord, ended["record"])
                weights = RowShards(self.table).of_whole(ended["model"])
                if (disk := self.rows_on_disk) is not None:
                    weights = disk.with_rows(weights, self.model.state_dict())
                self.model.load_state_dict(weights)
                set_rng_state(ended["rng"], self.device)
        self.stages.append(asdict(record))
        self.history += ended["history"]
        self.kernel = record.kernel
        return dict(record.metrics)

    def _train_stage(
        self,
        index: int,
        name: str,
        max_epochs: int,
        frozen: Iterable[nn.Parameter],
        extra_optimizers: Iterable[torch.optim.Optimizer],
        hooks: tuple[Any, Any, Any],
    ) -> dict[str, Any]:
        begin = time.perf_counter()
        with _frozen(frozen):
            make = partial(OptimizerSet, self.model, self.config, extra_optimizers, self.id_counts)
            optimizers = make() if self.rows_on_disk is None else self.rows_on_disk.attached(make)
            self._replicas = None if self.processes is None else Replicas(self.processes, self.model)
            stage = Stage(self, index, name, max_epochs, optimizers, *hooks)
            stage.run()
        self._replicas = None
        return {
            "record": asdict(stage.record(time.perf_counter() - begin)),
            "history": stage.state.history,
            "model": stage.model_state(),
            "rng": get_rng_state(self.device),
        }

    def evaluate(self, split: Literal["search", "valid"] = "valid") -> dict[str, float]:
        """Metrics of the current weights on the half that selects (``valid``) or the half to learn from."""
        data = self.valid if split == "valid" else self._search_split()
        if self.ranking is not None:
            return self.ranking.evaluate(self.model, data)
        metrics = evaluate(self.model, data, self.config.evaluation_batch_size, self.config.objective)
        if isinstance(self.model, ElasticModel):
            metrics |= width_aucs(self.model, data, self.config.evaluation_batch_size)
        return metrics

    def search_batches(self, epoch: int) -> Iterator[Batch]:
        """Shuffled batches of the half of validation that stages may learn from."""
        return self._shuffled(self._search_split(), epoch)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Shuffled batches of the training split, in another order than the stage's own."""
        return self._shuffled(self.train, epoch)

    def _shuffled(self, split: Split, epoch: int) -> Iterator[Batch]:
        return batches_on(
            self.device,
            split,
            self.config.batch_size,
            shuffle_seed=self.config.seed + (len(self.stages) << 32) + (1 << 31),
            epoch=epoch,
            max_history=self.model.config.max_history,
        )

    def record_search(self, stage: str, seconds: float, evaluations: int) -> None:
        """Note a stage that evaluated models and trained none; its time is training time, as it learned the table."""
        size = self.table.ledger().bytes
        record = StageRecord(stage, {}, 0, 0, 0.0, 0, evaluations, seconds, 0.0, seconds, size, size, self.kernel)
        self.stages.append(asdict(record))

    def _search_split(self) -> Split:
        if self._search is None:
            raise ValueError(
                f"table method {self.table.method!r} learns nothing from validation; register it with "
                "learns_from_validation=True, or give split_validation=True"
            )
        return self._search

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch under the current weights, in the run's precision; without L2."""
        if batch.labels is None:
            raise ValueError("the batch has no labels")
        rows = batch if self.ranking is None else self.ranking.negatives.beside(batch, self.config.negatives)
        forward = self._replicas or self.model
        with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            outputs = forward(rows)
        if self.ranking is not None:
            return self.ranking.loss(outputs.float(), len(batch))
        if isinstance(self.model, ElasticModel):
            return elastic_loss(self.model, batch, outputs.float(), self._bf16)
        of_rows = nn.functional.mse_loss if self.config.objective == "mse" else _LOGLOSS
        if self._replicas is not None:
            return self._replicas.mean(of_rows(outputs.float(), batch.labels, reduction="none"), batch)
        return of_rows(outputs.float(), batch.labels)

    def over_processes(self, loss: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of a step as they are over all of its batch, without gradients."""
        if self.processes is None:
            return loss, total
        loss, total = self.processes.average(loss, total)
        return loss, total

    def restart(self, table: EmbeddingTable, model_state: dict[str, Tensor] | None = None) -> None:
        """Go on with ``table`` in a new model.

        Args:
            table: takes the place of the current one; may be the same one.
            model_state: weights of the model outside the table, as from ``model.state_dict()`` (the table's entries are
                ignored). None gives fresh weights: those that the run started with, as the seed is the same.
        """
        self.model = self._new_model(table)
        if model_state is not None:
            outside = {key: value for key, value in model_state.items() if not key.startswith("table.")}
            missing, unexpected = self.model.load_state_dict(outside, strict=False)
            wrong = [key for key in missing if not key.startswith("table.")] + list(unexpected)
            if wrong:
                raise ValueError(f"model_state does not fit the model: {wrong}")


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    held = [p for p in parameters if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)

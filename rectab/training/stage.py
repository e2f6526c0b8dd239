"""One stage of training: steps, evaluations, early stopping, the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rectab.batch import Batch
from rectab.plain import read_plain
from rectab.training.best_rows import BestRows
from rectab.training.config import monitor_value
from rectab.training.device import batches_on
from rectab.training.errors import TrainingError
from rectab.training.losses import StepLoss, StepLosses
from rectab.training.optimizers import OptimizerSet
from rectab.training.row_shards import RowShards
from rectab.training.rows_on_disk import RowsOnDisk, page_ins
from rectab.training.stage_state import StageRecord, StageState
from rectab.training.state import get_rng_state, restored_from, set_rng_state

if TYPE_CHECKING:
    from rectab.training.trainer import Trainer

__all__ = ["Stage"]


class Stage:
    """Runs one stage of ``trainer``.

    Args:
        trainer: whose model is trained.
        index: number of the stage, from 0.
        name: for history, progress and errors.
        max_epochs, loss_terms, after_step, until: see :meth:`rectab.tables.staged.StageRunner.run`.
        optimizers: of what this stage trains.
    """

    def __init__(
        self,
        trainer: Trainer,
        index: int,
        name: str,
        max_epochs: int,
        optimizers: OptimizerSet,
        loss_terms: Callable[[], Tensor] | None,
        after_step: Callable[[int], None] | None,
        until: Callable[[], bool] | None = None,
    ) -> None:
        self.trainer = trainer
        self.config = trainer.config
        self.index = index
        self.name = name
        self.max_epochs = max_epochs
        self.optimizers = optimizers
        self.loss_terms = loss_terms
        self.after_step = after_step
        self.until = until
        self.state = StageState()
        self.disk, self.page_ins = trainer.rows_on_disk, 0
        folder = trainer.checkpoints.folder if self.disk is None else self.disk.files.folder
        log = self.config.best_weights == "log" or self.disk is not None
        self._best_rows = BestRows(optimizers.rows, folder) if log else None
        self.shards = RowShards(trainer.table, optimizers)
        self._losses = StepLosses(trainer.device)
        self.best: dict[str, Tensor] | None = None
        self.batches_per_epoch = trainer.steps_per_epoch
        per_epoch = min(self.config.evaluations_per_epoch, self.batches_per_epoch)
        self._evaluate_after = {math.ceil((i + 1) * self.batches_per_epoch / per_epoch) for i in range(per_epoch)}

    def run(self) -> None:
        """Train to the end and load the best weights, unless ``until`` says that the last are those."""
        self._resume()
        state = self.state
        paged = page_ins()
        self.trainer.reporter.start(self.name, self.max_epochs * self.batches_per_epoch, state.step)
        try:
            while not state.stopped and state.epoch < self.max_epochs:
                self._run_epoch()
        finally:
            self.trainer.reporter.finish()
        self.page_ins = page_ins() - paged
        if self.shards.apart:
            self._save()  # stands for how it ended: rows that are apart are in no one file
        self.optimizers.release()
        if self.best is not None:
            self._load_best(self.best)

    def record(self, wall_seconds: float) -> StageRecord:
        """How it ended."""
        state = self.state
        return StageRecord(
            stage=self.name,
            metrics=state.best_metrics,
            steps=state.step,
            samples=state.samples,
            epochs=round(state.epoch + state.batch / self.batches_per_epoch, 4),
            best_evaluation=state.best_evaluation,
            evaluations=state.evaluations,
            seconds=state.seconds,
            evaluation_seconds=state.evaluation_seconds,
            wall_seconds=wall_seconds,
            table_training_bytes=self.optimizers.table_bytes(),
            table_bytes=self.trainer.table.ledger().bytes,
            kernel=self.optimizers.kernel,
            page_ins=0 if self.disk is None else self.page_ins,
        )

    def _load_best(self, best: dict[str, Tensor]) -> None:
        """The best weights, but what the table records of training to its end."""
        model = self.trainer.model
        if self._best_rows is not None:
            self._best_rows.load()
            best = {**model.state_dict(), **best}
        kept, records = model.state_dict(), {f"table.{name}" for name in model.table.records()}
        model.load_state_dict({name: kept[name] if name in records else tensor for name, tensor in best.items()})

    def _run_epoch(self) -> None:
        state, trainer = self.state, self.trainer
        if self.config.restart_rows and state.epoch and not state.batch:
            self.optimizers.restart_rows(self.config.seed + state.epoch)
        source = batches_on(
            trainer.device,
            trainer.train,
            self.config.batch_size,
            # Another order for every stage; numpy takes a seed of any length.
            shuffle_seed=self.config.seed + (self.index << 32),
            epoch=state.epoch,
            start=state.batch,
            max_history=trainer.model.config.max_history,
            part=None if trainer.processes is None else trainer.processes.share,
        )
        if self.disk is not None:
            source = self.disk.prefetched(source, trainer.model)
        trainer.model.train()
        begin = time.perf_counter()
        with closing(source):  # type: ignore[type-var]
            for batch in source:
                self._step(batch)
                over = self.until is not None and self.until()
                state.seconds += time.perf_counter() - begin
                if over or state.batch in self._evaluate_after:
                    self._evaluate()
                state.stopped |= over
                trainer.reporter.step(state.step)
                if state.batch == self.batches_per_epoch:
                    state.epoch, state.batch = state.epoch + 1, 0
                if trainer.checkpoints.due_together(state.step) if self.shards.apart else trainer.checkpoints.due():
                    self._save()
                if state.stopped:
                    return
                begin = time.perf_counter()

    def _step(self, batch: Batch) -> None:
        state = self.state
        loss = self.trainer.loss(batch)
        total = loss if self.loss_terms is None else loss + self.loss_terms()
        self._note(self._losses.add(state.step, *self.trainer.over_processes(loss, total)))
        self.optimizers.zero_grad()
        total.backward()
        self.optimizers.step()
        state.step += 1
        state.batch += 1
        state.samples += batch.total
        self.trainer.table.after_step(state.step, self.optimizers.rows)
        if self.after_step is not None:
            self.after_step(state.step)

    def _note(self, losses: list[StepLoss]) -> None:
        """Add up losses of steps. Raises TrainingError if one is not finite."""
        state = self.state
        for step, loss, total in losses:
            if not math.isfinite(total):
                raise TrainingError(
                    f"loss is {total} at step {step} of stage {self.name!r} (epoch {state.epoch}, lr "
                    f"{self.optimizers.lr:g}): training has diverged; try a lower lr, clip_norm, or precision='fp32', "
                    "and look for infinite or huge values in the dense features"
                )
            state.loss_sum += loss
            state.loss_count += 1

    def _evaluate(self) -> None:
        state, config = self.state, self.config
        begin = time.perf_counter()
        self._note(self._losses.take())  # on a GPU, waits for the steps so far, whose time it is
        state.seconds += time.perf_counter() - begin
        begin = time.perf_counter()
        self.optimizers.catch_up()
        metrics = self.trainer.evaluate("valid")
        value = monitor_value(config.monitor, metrics)
        state.evaluations += 1
        better = state.best_value is None or value > state.best_value + config.min_improvement
        if better or self.until is not None:
            state.best_value, state.best_evaluation, state.best_metrics = value, state.evaluations, metrics
            state.without_improvement = 0
            if self.until is None:
                now, log = self.model_state(), self._best_rows
                self.best = _copy(now if log is None else log.without_rows(now), self.best)
                if log is not None:
                    log.mark(state.evaluations)
        else:
            state.without_improvement += 1
        mean_loss = state.loss_sum / max(state.loss_count, 1)
        state.loss_sum, state.loss_count = 0.0, 0
        state.evaluation_seconds += time.perf_counter() - begin
        epoch = state.epoch + state.batch / self.batches_per_epoch
        state.history.append(
            {
                "stage": self.name,
                "step": state.step,
                "epoch": round(epoch, 4),
                "train_loss": mean_loss,
                "lr": self.optimizers.lr,
                "seconds": round(state.seconds, 3),
                "best": better,
                **metrics,
            }
        )
        self.trainer.reporter.evaluation(epoch, mean_loss, metrics, better)
        self._react()

    def _react(self) -> None:
        """Stop, or cut the learning rate, where validation has not improved for long enough."""
        state, config = self.state, self.config
        if state.without_improvement >= config.patience:
            state.stopped = True
        elif config.lr_patience and state.without_improvement and state.without_improvement % config.lr_patience == 0:
            state.lr_scale = max(state.lr_scale * config.lr_factor, config.min_lr_factor)
            self.optimizers.scale_lr(state.lr_scale)

    def model_state(self) -> dict[str, Tensor]:
        """All of the model but rows that lie in files."""
        state = self.trainer.model.state_dict()
        return state if self.disk is None else self.disk.without_rows(state)

    def _save(self) -> None:
        self._note(self._losses.take())
        optimizers = self.optimizers.state_dict()
        content: dict[str, Any] = {
            "stage": self.name,
            "state": asdict(self.state),
            "model": self.model_state(),
            "optimizers": optimizers if self.disk is None else self.disk.without_rows(optimizers),
            "rng": get_rng_state(self.trainer.device),
        }
        best, save_rows = self.shards.set_apart(content, self.best)
        if self.disk is not None:
            content["rows on disk"] = self.disk.begin_checkpoint()
        if self._best_rows is not None:
            content["best rows"] = self._best_rows.told()
        self.trainer.checkpoints.save_current(self.index, content, best, self.state.best_evaluation, save_rows)
        if self.disk is not None:
            self.disk.end_checkpoint()
        if self._best_rows is not None:
            self._best_rows.tidy()

    def _resume(self) -> None:
        loaded = self.trainer.checkpoints.load_current(self.index)
        if self.disk is not None:
            loaded = self._resume_rows(self.disk, loaded)
        if loaded is None:
            return
        path, content, self.best = loaded
        with restored_from(path):
            self.best = self.shards.take_up(path, content, self.best, self.trainer.model.state_dict())
            self.state = read_plain(StageState, content["state"])
            self.state.check(self.batches_per_epoch)
            self.trainer.model.load_state_dict(content["model"])
            self.optimizers.load_state_dict(content["optimizers"])
            set_rng_state(content["rng"], self.trainer.device)
            if self._best_rows is not None:
                self._best_rows.resume(content["best rows"])

    def _resume_rows(self, disk: RowsOnDisk, loaded: Any) -> Any:
        """Rows as they were at the checkpoint, which is given back with them."""
        if loaded is None:
            disk.resume(None)
            return None
        path, content, best = loaded
        with restored_from(path):
            disk.resume(content["rows on disk"])
            for key, own in (("model", self.trainer.model.state_dict()), ("optimizers", self.optimizers.state_dict())):
                content[key] = disk.with_rows(content[key], own)
        return path, content, best


@torch.no_grad()
def _copy(source: dict[str, Tensor], into: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """A copy of ``source``, in the memory of ``into`` if given."""
    if into is None:
        return {name: tensor.clone() for name, tensor in source.items()}
    for name, tensor in source.items():
        into[name].copy_(tensor)
    return into

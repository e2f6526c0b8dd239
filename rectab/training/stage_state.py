"""Where a stage of training stands, and how it ended: plain data for checkpoints and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["StageRecord", "StageState"]


@dataclass
class StageState:
    """Where a stage stands; plain data.

    Attributes:
        epoch, batch: the next batch to train on.
        step: updates done.
        samples: rows trained on.
        seconds, evaluation_seconds: spent on steps and on evaluations.
        loss_sum, loss_count: of the losses since the last evaluation.
        evaluations: evaluations done.
        without_improvement: evaluations since the best one.
        lr_scale: share of the initial learning rate.
        best_value: best monitored value; None before the first evaluation.
        best_evaluation: number of the best evaluation.
        best_metrics: its metrics.
        stopped: the stage is over.
        history: one record for each evaluation.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    evaluations: int = 0
    without_improvement: int = 0
    lr_scale: float = 1.0
    best_value: float | None = None
    best_evaluation: int = 0
    best_metrics: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def check(self, batches_per_epoch: int) -> None:
        """Raises ValueError where no stage of so many batches an epoch can stand."""
        counts = (self.epoch, self.step, self.samples, self.loss_count, self.evaluations, self.without_improvement)
        if min(counts) < 0 or not 0 <= self.batch <= batches_per_epoch:
            raise ValueError(f"epoch {self.epoch}, batch {self.batch} of {batches_per_epoch} is no place in training")


@dataclass(frozen=True)
class StageRecord:
    """How a stage ended; results hold one of each.

    Attributes:
        stage: its name.
        metrics: of its best weights on validation; none of a stage that trained nothing.
        steps, samples, epochs: trained; an epoch that was left off counts in part.
        best_evaluation, evaluations: the number of the best evaluation, from 1, and of all.
        seconds, evaluation_seconds, wall_seconds: on steps (or a search), on evaluations, in all.
        table_training_bytes: the table, its gradients and its optimizers.
        table_bytes: the table.
        kernel: implementation of the row kernels.
        page_ins: pages read from a disk during the steps, where rows lie in files.
    """

    stage: str
    metrics: dict[str, Any]
    steps: int
    samples: int
    epochs: float
    best_evaluation: int
    evaluations: int
    seconds: float
    evaluation_seconds: float
    wall_seconds: float
    table_training_bytes: int
    table_bytes: int
    kernel: str
    page_ins: int = 0

"""Predictions of a whole split and their metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from rectab.batch import Batch
from rectab.data.split import Split
from rectab.metrics import click_metrics, rating_metrics
from rectab.models import CTRModel
from rectab.processes import current
from rectab.training.device import batches_on
from rectab.training.errors import TrainingError

__all__ = ["batches_in_order", "evaluate", "evaluating", "metrics_of", "predict"]


@contextmanager
def evaluating(model: CTRModel) -> Iterator[None]:
    """While it lasts, the model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def batches_in_order(model: CTRModel, split: Split, batch_size: int) -> Iterator[Batch]:
    """All rows of ``split``, in its order, on the model's device; each of several processes its part of a batch."""
    processes = current()
    return batches_on(
        model.table.device,
        split,
        batch_size,
        shuffle_seed=None,
        drop_singleton=False,
        max_history=model.config.max_history,
        part=None if processes is None else processes.share,
    )


@torch.no_grad()
def predict(model: CTRModel, split: Split, batch_size: int = 8192) -> np.ndarray:
    """Logits float32 [n] of every row of ``split``, in its order: in evaluation mode, fp32, on the model's device.

    Of several processes each computes its part of them, and all have all.
    """
    with evaluating(model):
        outputs = [model(batch).float() for batch in batches_in_order(model, split, batch_size)]
    logits = torch.cat(outputs) if outputs else torch.empty(0, device=model.table.device)
    processes = current()
    if processes is None:
        return logits.cpu().numpy()
    predictions = np.empty(len(split), np.float32)
    predictions[processes.order_of_parts(len(split), batch_size)] = processes.joined_rows(logits).cpu().numpy()
    return predictions


def evaluate(model: CTRModel, split: Split, batch_size: int = 8192, objective: str = "logloss") -> dict[str, float]:
    """Metrics of the model on ``split``.

    Raises:
        TrainingError: a prediction is not finite.
    """
    return metrics_of(predict(model, split, batch_size), split, objective)


def metrics_of(predictions: np.ndarray, split: Split, objective: str) -> dict[str, float]:
    """Metrics of predictions [n] for the rows of ``split``.

    Raises:
        TrainingError: a prediction is not finite.
        ValueError: the split has no rows.
    """
    if not len(split):
        raise ValueError(f"split {split.name!r} has no rows to measure")
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions)).sum())
        raise TrainingError(
            f"{bad} of {len(predictions)} predictions on split {split.name!r} are not finite: training has diverged; "
            "try a lower lr, clip_norm, or precision='fp32'"
        )
    if objective == "topk":
        raise ValueError(
            f"split {split.name!r}: a run of objective 'topk' ranks items, and rows have no rank by themselves"
        )
    if objective == "mse":
        return rating_metrics(split.labels, predictions)
    return click_metrics(split.labels, predictions, split.groups)

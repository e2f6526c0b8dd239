"""How good a choice of widths is: the metric on the ``search`` half of validation, with the weights frozen.

The authors' search is 600 passes over validation. Here the batches are assembled once and kept, no candidate is
evaluated twice, and every batch is read by all candidates of a generation before the next one is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rectab.metrics import auc

if TYPE_CHECKING:
    from rectab.batch import Batch
    from rectab.tables.staged import StageRunner

__all__ = ["Fitness"]


class Fitness:
    """AUC of a model (for a rating objective: minus the mean squared error) under one table state after another.

    Where all rows are of one class, items are ranked, and the trainer measures (``topk``: AUC within every user).

    Args:
        trainer: whose model is evaluated; its ``search_batches`` are read once, at once.
        max_rows: no batch is read after so many rows; 0 reads all. The batches are shuffled, so any are a fair sample.
    """

    def __init__(self, trainer: StageRunner, max_rows: int = 0) -> None:
        self.trainer = trainer
        self.model = trainer.model
        self.clicks = "auc" in trainer.evaluate("search")
        self.batches: list[Batch] = []
        rows = 0
        for batch in trainer.search_batches(0):
            self.batches.append(batch)
            rows += len(batch)
            if rows >= max_rows > 0:
                break
        self.labels = torch.cat([_labels(batch) for batch in self.batches])
        self.ranked = self.clicks and len(self.labels.unique()) < 2
        self.rows_scored = 0

    @torch.no_grad()
    def __call__(self, states: Sequence[Any], enter: Callable[[Any], None]) -> list[float]:
        """Fitness of every state; ``enter`` puts the table into one."""
        if self.ranked:
            return [self._of_ranking(state, enter) for state in states]
        was_training = self.model.training
        self.model.eval()
        outputs: list[list[Tensor]] = [[] for _ in states]
        for batch in self.batches:
            for state, output in zip(states, outputs, strict=True):
                enter(state)
                output.append(self.model(batch).float())
        self.model.train(was_training)
        self.rows_scored += len(states) * self.labels.numel()
        return [self._metric(torch.cat(output)) for output in outputs]

    def _of_ranking(self, state: Any, enter: Callable[[Any], None]) -> float:
        enter(state)
        self.rows_scored += self.labels.numel()
        return self.trainer.evaluate("search")["auc"]

    def _metric(self, outputs: Tensor) -> float:
        if not self.clicks:
            return -float((outputs - self.labels).square().mean())
        return auc(self.labels.cpu().numpy(), outputs.cpu().numpy())


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError("optembed: validation batches have no labels")
    return batch.labels

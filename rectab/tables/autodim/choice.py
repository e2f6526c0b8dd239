"""The step of AutoDim's choice of widths, on validation batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from rectab.tables.dnis.bilevel import normalize_blocks

if TYPE_CHECKING:
    from rectab.batch import Batch
    from rectab.tables.autodim.table import AutoDimTable
    from rectab.tables.staged import StageRunner

__all__ = ["AlphaStep"]


class AlphaStep:
    """Moves the logits on a validation batch after every step of the table."""

    def __init__(self, table: AutoDimTable, trainer: StageRunner) -> None:
        self.table, self.trainer = table, trainer
        self._batches, self._taken = self._forever(), 0

    def _forever(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.trainer.search_batches(epoch)
            epoch += 1

    def __call__(self, step: int) -> None:
        for _ in range(step - 1 - self._taken):  # of steps taken before an interruption
            next(self._batches)
        self._taken = step
        self.trainer.model.eval()
        alpha = self.table.alpha.requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.trainer.loss(next(self._batches)), [alpha])
        alpha.requires_grad_(False)
        self.trainer.model.train()
        with torch.no_grad():
            alpha -= self.table.config.alpha_lr * normalize_blocks(gradient)

"""Stochastic gradient descent of the rows a step touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rectab.ops.replay import Clock
from rectab.ops.rows import RowStore
from rectab.ops.step import Step
from rectab.optim.base import RowOptimizer
from rectab.optim.rule import RowRule

__all__ = ["SGD", "RowSGD"]


class SGD(RowRule):
    """``w -= lr * g``, without state; its replay is exact."""

    kernel = "sgd"

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        return values - step.lr * gradients

    def replay(self, values: Tensor, state: dict[str, Tensor], seen: Tensor, clock: Clock) -> Tensor:
        """``w *= prod(1 - lr_s * decay)`` over the steps s that the rows missed."""
        kept = torch.from_numpy(clock.log_kept()).to(values.device)
        return values * torch.exp(kept[clock.now] - kept[seen.long()]).float().unsqueeze(1)

    def check(self, lr: float, clock: Clock) -> None:
        if lr * clock.decay >= 1.0:
            raise ValueError(f"lr * weight_decay must be below 1 for RowSGD, got {lr} * {clock.decay}")


class RowSGD(RowOptimizer):
    """``w -= lr * (g + weight_decay * w)``; it has no state besides the clock of ``decay="full"``, which is exact.

    Args:
        stores: (name, store) of every row store.
        lr: learning rate.
        **options: of :class:`RowOptimizer`.
    """

    def __init__(self, stores: Iterable[tuple[str, RowStore]], lr: float = 0.1, **options: Any) -> None:
        super().__init__(stores, SGD(), lr, **options)

"""Stochastic gradient descent of the rows a step touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rectab.ops.dispatch import kernels_for
from rectab.ops.rows import RowStore
from rectab.optim.base import RowOptimizer

__all__ = ["RowSGD"]


class RowSGD(RowOptimizer):
    """``w -= lr * (g + weight_decay * w)``; it has no state besides the clock of ``decay="full"``, which is exact.

    Args:
        stores: (name, store) of every row store.
        lr: learning rate.
        **options: of :class:`RowOptimizer`.
    """

    def __init__(self, stores: Iterable[tuple[str, RowStore]], lr: float = 0.1, **options: Any) -> None:
        super().__init__(stores, {"lr": lr}, **options)

    def _new_state(self, store: RowStore, device: torch.device) -> dict[str, Tensor]:
        return {}

    def _check_full_decay(self, lr: float) -> None:
        if lr * self.clock.decay >= 1.0:
            raise ValueError(f"lr * weight_decay must be below 1 for RowSGD, got {lr} * {self.clock.decay}")

    def _update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, *gradient: Any) -> None:
        kernels_for(weight.device, self.kernel).sgd_update(weight, rows, *gradient)

    def _refresh(self, name: str, rows: Tensor) -> None:
        weight = self.stores[name].weight
        kernels = kernels_for(weight.device, self.kernel)
        kernels.sgd_refresh(weight, self.row_state[name]["seen"], rows, self.clock, self._salt(name, "refresh"))

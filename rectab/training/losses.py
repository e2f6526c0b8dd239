"""Losses of steps, read from the device seldom: to read one is to wait for its step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["StepLoss", "StepLosses"]

_STEPS_BETWEEN = 64
"""On a GPU. A loss that is not finite is noticed by so many steps late."""


class StepLoss(NamedTuple):
    """Attributes:
    step: its number.
    loss: of the data alone.
    total: what was minimised.
    """

    step: int
    loss: float
    total: float


class StepLosses:
    """Collects what steps lose; on the CPU every loss is given back at once.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._steps_between = 1 if device.type == "cpu" else _STEPS_BETWEEN
        self._kept: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, loss: Tensor, total: Tensor) -> list[StepLoss]:
        """Keep scalars of a step; those that are to be looked at now, in order."""
        self._kept.append((step, loss.detach(), total.detach()))
        return self.take() if len(self._kept) >= self._steps_between else []

    def take(self) -> list[StepLoss]:
        """All that is kept, in order."""
        if not self._kept:
            return []
        steps, losses, totals = zip(*self._kept, strict=True)
        self._kept = []
        values = torch.stack([torch.stack(losses).float(), torch.stack(totals).float()]).tolist()
        return [StepLoss(*one) for one in zip(steps, *values, strict=True)]

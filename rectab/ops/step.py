"""What one update of some rows needs beside the rows: the same record for every optimizer and every kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """One update of distinct rows.

    Attributes:
        rows: int64 [u], of rows and state.
        gradients: fp32 [u, D], of the loss without the penalty.
        shares: fp32 [N], by how much of ``decay`` each row is penalised; None for all of it.
        lr: learning rate.
        decay: L2 coefficient: the penalty is ``decay / 2 * share * ||row||^2``.
        number: which step it is, from 1.
        counts: fp32 [u], how often the step looked each row up, where the rule asks (``RowRule.counts``); else None.
        salt: of the stochastic rounding of rows held in fewer bits; state takes ``salt + 1``, ``salt + 2``, ...
    """

    rows: Tensor
    gradients: Tensor
    shares: Tensor | None
    lr: float
    decay: float
    number: int
    salt: int
    counts: Tensor | None = None

    def with_penalty(self, values: Tensor) -> Tensor:
        """[u, D] values of the rows -> fp32 [u, D]: gradients of the loss and the penalty."""
        if self.decay == 0.0:
            return self.gradients
        if self.shares is None:
            return self.gradients + values * self.decay
        return self.gradients + values * (self.shares[self.rows] * self.decay).unsqueeze(1)

    def after_penalty(self, gradients: Tensor) -> Step:
        """The same step with gradients fp32 [u, D] in which the penalty is already."""
        return replace(self, gradients=gradients, shares=None, decay=0.0)

    def on_copy(self) -> Step:
        """The same step of a copy that holds nothing but these rows, in this order."""
        rows = torch.arange(self.rows.numel(), device=self.rows.device)
        return replace(self, rows=rows, shares=None if self.shares is None else self.shares[self.rows])

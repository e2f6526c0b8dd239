"""Adam of the rows a step touched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.replay import Clock, chunks_of, decayed
from rectab.ops.rows import RowStore
from rectab.ops.step import Step
from rectab.optim.base import RowOptimizer
from rectab.optim.rule import RowRule, state_of_rows

__all__ = ["Adam", "RowAdam", "Square"]

Square = Literal["element", "row", "factored"]


class Adam(RowRule):
    """The rule of :class:`RowAdam`; the arguments are its."""

    kernel: str | None = "adam"  # type: ignore[misc]  # of a rule, not of the class
    roots = ("square",)
    shared = ("column",)

    def __init__(
        self,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bias_correction: Literal["row", "step"] = "row",
        square: Square = "element",
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas) or eps < 0:
            raise ValueError(f"betas must be in [0, 1) and eps at least 0, got betas={betas}, eps={eps}")
        if bias_correction not in ("row", "step"):
            raise ValueError(f"bias_correction must be 'row' or 'step', got {bias_correction!r}")
        if square not in ("element", "row", "factored"):
            raise ValueError(f"square must be 'element', 'row' or 'factored', got {square!r}")
        self.betas, self.eps, self._by_row = betas, eps, bias_correction == "row"
        self._elements, self._factored = square == "element", square == "factored"
        if not self._elements:
            self.kernel = None
        self._corrections: dict[torch.device, Tensor] = {}

    def new_state(
        self, num_rows: int, row_dim: int, dtype: torch.dtype, device: Any, replays: bool
    ) -> dict[str, Tensor]:
        state = {"moment": state_of_rows(num_rows, row_dim, dtype=dtype, device=device)}
        state["square"] = state_of_rows(num_rows, *([row_dim] * self._elements), dtype=dtype, device=device)
        if self._factored:
            state["column"] = torch.zeros(row_dim, dtype=torch.float32, device=device)
        if self._by_row and not replays:
            state["steps"] = state_of_rows(num_rows, dtype=torch.int32, device=device)
        return state

    def corrections(self, device: torch.device) -> Tensor:
        """fp32 [2, T]: ``1 - beta^t`` of both betas; the last column stands for all later t."""
        if device not in self._corrections:
            self._corrections[device] = _bias_corrections(self.betas).to(device)
        return self._corrections[device]

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        beta_1, beta_2 = self.betas
        state["moment"] = m = beta_1 * state["moment"] + (1 - beta_1) * gradients
        squares = gradients * gradients
        state["square"] = beta_2 * state["square"] + (1 - beta_2) * self._mean(squares)
        if self._factored:
            state["column"] = beta_2 * state["column"] + (1 - beta_2) * squares.mean(0)
        v = self._spread(state["square"], state)
        corrections = self.corrections(values.device)
        latest = corrections.shape[1] - 1
        if "steps" in state:
            state["steps"] = state["steps"] + 1
            correction = corrections[:, state["steps"].clamp(max=latest).long()].unsqueeze(2)
        else:
            correction = corrections[:, min(step.number, latest)].view(2, 1, 1)
        return values - step.lr * (m / correction[0]) / ((v / correction[1]).sqrt() + self.eps)

    def _mean(self, squares: Tensor) -> Tensor:
        """fp32 [u, D] -> what is kept of them: all, or a number a row."""
        return squares if self._elements else squares.mean(1)

    def _spread(self, square: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What is kept -> [u, D] or [u, 1]: of every element. Factored, rows differ in size and columns in share."""
        if self._elements:
            return square
        if not self._factored:
            return square.unsqueeze(1)
        column = state["column"]
        return square.unsqueeze(1) * (column / column.mean().clamp(min=1e-30))

    def replay(self, values: Tensor, state: dict[str, Tensor], seen: Tensor, clock: Clock) -> Tensor:
        """The dense Adam steps whose gradient was that of the penalty alone."""
        (beta_1, beta_2), corrections = self.betas, self.corrections(values.device)
        w, m, v = values, state["moment"], state["square"]
        for start, length, active in chunks_of(seen, clock):
            lr_sum = clock.lr_between(start, start + length).unsqueeze(1)
            n = length.float().unsqueeze(1)
            kept_1, kept_2 = beta_1**n, beta_2**n
            middle = (start + (length + 1) // 2).clamp(max=corrections.shape[1] - 1).long()
            correction = corrections[:, middle].unsqueeze(2)
            g = clock.decay * w
            kept_square = kept_2 if self._elements else kept_2.squeeze(1)
            v_next = kept_square * v + (1 - kept_square) * self._mean(g * g)
            # One step: m and v after it. Many: v in the middle; m follows g, after what was left of it has run out.
            m_one = beta_1 * m + (1 - beta_1) * g
            one = n == 1 if self._elements else n.squeeze(1) == 1
            v_felt = self._spread(torch.where(one, v_next, (v + v_next) / 2), state)
            scale = lr_sum / correction[0] / ((v_felt / correction[1]).sqrt() + self.eps)
            left = (m - g) * (beta_1 * (1 - kept_1) / (1 - beta_1)) / n
            w_next = torch.where(n == 1, w - scale * m_one, w * decayed(scale * clock.decay) - scale * left)
            m_next = torch.where(n == 1, m_one, kept_1 * m + (1 - kept_1) * clock.decay * w_next)
            keep = active.unsqueeze(1)
            w, m = torch.where(keep, w_next, w), torch.where(keep, m_next, m)
            v = torch.where(keep if self._elements else active, v_next, v)
        state["moment"], state["square"] = m, v
        return w


class RowAdam(RowOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) on the rows of the batch.

    With ``weight_decay=0``, or ``decay`` other than ``full``, it is lazy: a row's moments stand still while the row is
    away, and its bias is corrected by its own number of updates. With ``weight_decay > 0`` and ``decay="full"`` every
    row follows the dense ``torch.optim.Adam(weight_decay=...)``, by replay.

    Args:
        stores: (name, store) of every row store.
        lr: learning rate.
        betas: decay rates of the moments, in [0, 1).
        eps: added to the root.
        square: the second moment: ``element`` keeps one an element; ``row`` one a row, of the mean of squares (half of
            the state); ``factored`` besides one a column of the store, whose product with it stands for the elements'
            (Shazeer and Stern, ICML 2018).
        bias_correction: ``row`` corrects by the updates of the row, ``step`` by the steps of the optimizer (as
            ``torch.optim.SparseAdam`` does); ``decay="full"`` always uses ``step``, as the dense optimizer.
        **options: of :class:`RowOptimizer`.
    """

    def __init__(
        self,
        stores: Iterable[tuple[str, RowStore]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bias_correction: Literal["row", "step"] = "row",
        square: Square = "element",
        **options: Any,
    ) -> None:
        super().__init__(stores, Adam(betas, eps, bias_correction, square), lr, **options)


def _bias_corrections(betas: tuple[float, float]) -> Tensor:
    """fp32 [2, T]: ``1 - beta^t`` up to the t from which both are 1 in fp32."""
    largest = max(*betas, 0.5)
    steps = torch.arange(math.ceil(math.log(2.0**-26) / math.log(largest)) + 2, dtype=torch.float64)
    corrections = torch.stack([1.0 - beta**steps for beta in betas])
    corrections[:, 0] = 1.0  # no step has number 0; 1 keeps a division by zero out of masked lanes
    return corrections.float()

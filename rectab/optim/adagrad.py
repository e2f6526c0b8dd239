"""Adagrad of the rows a step touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.replay import Clock, chunks_of, decayed
from rectab.ops.rows import RowStore
from rectab.ops.step import Step
from rectab.optim.base import RowOptimizer
from rectab.optim.rule import RowRule, state_of_rows

__all__ = ["Adagrad", "RowAdagrad"]


class Adagrad(RowRule):
    """The rule of :class:`RowAdagrad`; the arguments are its."""

    kernel = "adagrad"
    roots = ("square",)

    def __init__(
        self,
        eps: float = 1e-10,
        state: Literal["row", "element"] = "row",
        initial_accumulator_value: float = 0.0,
    ) -> None:
        if state not in ("row", "element"):
            raise ValueError(f"state must be 'row' or 'element', got {state!r}")
        if initial_accumulator_value < 0 or eps < 0:
            raise ValueError("eps and initial_accumulator_value must be at least 0")
        self.eps, self.per_row, self.initial = eps, state == "row", initial_accumulator_value

    def new_state(
        self, num_rows: int, row_dim: int, dtype: torch.dtype, device: Any, replays: bool
    ) -> dict[str, Tensor]:
        shape = (num_rows,) if self.per_row else (num_rows, row_dim)
        return {"square": state_of_rows(*shape, dtype=dtype, device=device, value=self.initial)}

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        squared = gradients.square()
        state["square"] = state["square"] + (squared.mean(1) if self.per_row else squared)
        root = state["square"].sqrt() + self.eps
        return values - step.lr * gradients / (root.unsqueeze(1) if self.per_row else root)

    def replay(self, values: Tensor, state: dict[str, Tensor], seen: Tensor, clock: Clock) -> Tensor:
        w, s = values, state["square"].unsqueeze(1) if self.per_row else state["square"]
        for start, length, active in chunks_of(seen, clock):
            lr_sum = clock.lr_between(start, start + length).unsqueeze(1)
            steps = length.float().unsqueeze(1)
            squared = (clock.decay * w).square()
            s_next = s + steps * (squared.mean(1, keepdim=True) if self.per_row else squared)
            middle = s + (s_next - s) * (steps + 1) / (2 * steps)
            rate = lr_sum * clock.decay / (middle.sqrt() + self.eps)
            w_next = torch.where(steps == 1, w - rate * w, w * decayed(rate))
            keep = active.unsqueeze(1)
            w, s = torch.where(keep, w_next, w), torch.where(keep, s_next, s)
        state["square"] = s.squeeze(1) if self.per_row else s
        return w


class RowAdagrad(RowOptimizer):
    """Adagrad (Duchi et al., JMLR 2011), with one sum of squares per row or per element.

    ``square += mean(g^2)`` over the row (``state="row"``, as in FBGEMM's exact row-wise Adagrad: 4 bytes per row) or
    ``square += g^2`` (``state="element"``, as in ``torch.optim.Adagrad``); ``w -= lr * g / (sqrt(square) + eps)``.

    Args:
        stores: (name, store) of every row store.
        lr: learning rate.
        eps: added to the root.
        state: ``row`` or ``element``.
        initial_accumulator_value: what ``square`` starts from.
        **options: of :class:`RowOptimizer`.
    """

    def __init__(
        self,
        stores: Iterable[tuple[str, RowStore]],
        lr: float = 0.01,
        *,
        eps: float = 1e-10,
        state: Literal["row", "element"] = "row",
        initial_accumulator_value: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(stores, Adagrad(eps, state, initial_accumulator_value), lr, **options)

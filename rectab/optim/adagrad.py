"""Adagrad of the rows a step touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.dispatch import kernels_for
from rectab.ops.memory import empty_rows
from rectab.ops.rows import RowStore
from rectab.optim.base import RowOptimizer

__all__ = ["RowAdagrad"]


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
        if state not in ("row", "element"):
            raise ValueError(f"state must be 'row' or 'element', got {state!r}")
        if initial_accumulator_value < 0 or eps < 0:
            raise ValueError("eps and initial_accumulator_value must be at least 0")
        self.eps = eps
        self._state_kind = state
        self._initial = initial_accumulator_value
        super().__init__(stores, {"lr": lr}, **options)

    def _new_state(self, store: RowStore, device: torch.device) -> dict[str, Tensor]:
        shape = (store.num_rows,) if self._state_kind == "row" else (store.num_rows, store.row_dim)
        return {"square": empty_rows(*shape, dtype=self.state_dtype, device=device).fill_(self._initial)}

    def _update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, *gradient: Any) -> None:
        *gradient, salt = gradient
        kernels_for(weight.device, self.kernel).adagrad_update(weight, state["square"], rows, *gradient, self.eps, salt)

    def _refresh(self, name: str, rows: Tensor) -> None:
        weight, state = self.stores[name].weight, self.row_state[name]
        kernels_for(weight.device, self.kernel).adagrad_refresh(
            weight, state["square"], state["seen"], rows, self.clock, self.eps, self._salt(name, "refresh")
        )

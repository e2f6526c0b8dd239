"""Adam of the rows a step touched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.dispatch import kernels_for
from rectab.ops.memory import empty_rows
from rectab.ops.rows import RowStore
from rectab.optim.base import RowOptimizer

__all__ = ["RowAdam"]


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
        **options: Any,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas) or eps < 0:
            raise ValueError(f"betas must be in [0, 1) and eps at least 0, got betas={betas}, eps={eps}")
        if bias_correction not in ("row", "step"):
            raise ValueError(f"bias_correction must be 'row' or 'step', got {bias_correction!r}")
        self.betas = betas
        self.eps = eps
        self._bias_correction = bias_correction
        super().__init__(stores, {"lr": lr}, **options)
        self._corrections = {
            device: _bias_corrections(betas).to(device)
            for device in {s.device for s in self.stores.values()}
            if device.type != "meta"
        }

    def _new_state(self, store: RowStore, device: torch.device) -> dict[str, Tensor]:
        state = {
            key: empty_rows(store.num_rows, store.row_dim, dtype=self.state_dtype, device=device).zero_()
            for key in ("moment", "square")
        }
        if self._bias_correction == "row" and not self._decays("full"):
            state["steps"] = empty_rows(store.num_rows, dtype=torch.int32, device=device).zero_()
        return state

    def _update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, *gradient: Any) -> None:
        *gradient, salt = gradient
        kernels_for(weight.device, self.kernel).adam_update(
            weight,
            state["moment"],
            state["square"],
            state.get("steps"),
            rows,
            *gradient,
            self.betas,
            self.eps,
            self._corrections[weight.device],
            self.clock.now + 1,
            salt,
        )

    def _refresh(self, name: str, rows: Tensor) -> None:
        weight, state = self.stores[name].weight, self.row_state[name]
        kernels_for(weight.device, self.kernel).adam_refresh(
            weight,
            state["moment"],
            state["square"],
            state["seen"],
            rows,
            self.clock,
            self.betas,
            self.eps,
            self._corrections[weight.device],
            self._salt(name, "refresh"),
        )


def _bias_corrections(betas: tuple[float, float]) -> Tensor:
    """fp32 [2, T]: ``1 - beta^t`` up to the t from which both are 1 in fp32."""
    largest = max(*betas, 0.5)
    steps = torch.arange(math.ceil(math.log(2.0**-26) / math.log(largest)) + 2, dtype=torch.float64)
    corrections = torch.stack([1.0 - beta**steps for beta in betas])
    corrections[:, 0] = 1.0  # no step has number 0; 1 keeps a division by zero out of masked lanes
    return corrections.float()

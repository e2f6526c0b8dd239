"""A store of embedding rows and the lookup that records what a step touched.

``RowStore`` is where every table keeps its rows. How its gradient reaches an optimizer is a choice:

* ``row``: the backward pass keeps (rows, gradients) in ``pending``; a row optimizer (:mod:`rectab.optim`) updates only
  those rows, so a step costs what the batch costs, whatever the size of the table.
* ``sparse`` and ``dense``: ordinary torch gradients, for a host's own optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rectab.ops.dispatch import KernelName, is_eager, kernels_for
from rectab.ops.memory import empty_rows

__all__ = ["Combination", "Gradient", "RowStore"]

Gradient = Literal["row", "sparse", "dense"]
Combination = Literal["concat", "sum", "product"]


class RowStore(nn.Module):
    """``num_rows`` vectors of ``row_dim`` elements.

    Args:
        num_rows: number of rows, at least 1.
        row_dim: width of a row.
        init_std: rows start as N(0, init_std^2).
        generator: source of the initial values; torch's default if None.
        gradient: ``row``, ``sparse`` or ``dense``, see the module's text.
    """

    weight: nn.Parameter

    def __init__(
        self,
        num_rows: int,
        row_dim: int,
        *,
        init_std: float = 0.01,
        generator: torch.Generator | None = None,
        gradient: Gradient = "row",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if gradient not in ("row", "sparse", "dense"):
            raise ValueError(f"gradient must be 'row', 'sparse' or 'dense', got {gradient!r}")
        if num_rows < 1 or row_dim < 1:
            raise ValueError(f"a row store needs at least one row and one element, got {num_rows} x {row_dim}")
        self.gradient: Gradient = gradient
        self.pending: list[tuple[Tensor, Tensor]] = []
        self._summed: Tensor | None = None  # the rows of ``pending`` if they are known to be distinct
        self.before_lookup: Callable[[Tensor], None] | None = None
        """Set by a row optimizer whose decay is ``full``: brings rows up to date before they are read."""
        weight = empty_rows(num_rows, row_dim, dtype=dtype, device=device)
        if weight.device.type != "meta":
            weight.normal_(0.0, init_std, generator=generator)
        self.weight = nn.Parameter(weight)

    @property
    def num_rows(self) -> int:
        return self.weight.shape[0]

    @property
    def row_dim(self) -> int:
        return self.weight.shape[1]

    def forward(self, rows: Tensor) -> Tensor:
        """int64 [*] row numbers -> float [*, row_dim]. Raises IndexError for a row outside the store."""
        if self.before_lookup is not None:
            self.before_lookup(rows)
        if not self._trains():
            return _gather(self.weight, rows)
        if self.gradient == "row":
            return _RecordingGather.apply(self.weight, rows, self)
        return nn.functional.embedding(rows, self.weight, sparse=self.gradient == "sparse")

    def sum_pending(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor]:
        """(distinct rows int64 [u], the sum of each one's pending gradients fp32 [u, D]); ``pending`` becomes these."""
        if len(self.pending) != 1 or self.pending[0][0] is not self._summed:
            self.pending = [kernels_for(self.weight.device, kernel).coalesce(self.pending, self.row_dim)]
            self._summed = self.pending[0][0]
        return self.pending[0]

    def combined(self, rows: Tensor, how: Combination = "sum", weights: Tensor | None = None) -> Tensor:
        """k rows make one vector.

        Args:
            rows: int64 [*, k].
            how: ``concat`` (in the order of the rows), ``sum`` or ``product``.
            weights: float [*, k], factors of a ``sum``; gradients reach them.

        Returns:
            float [*, row_dim]; [*, k * row_dim] for ``concat``.

        Raises:
            IndexError: a row outside the store.
            ValueError: weights with anything but ``sum``, or of another shape than ``rows``.
        """
        if how not in ("concat", "sum", "product"):
            raise ValueError(f"how must be 'concat', 'sum' or 'product', got {how!r}")
        if weights is not None and (how != "sum" or weights.shape != rows.shape):
            raise ValueError(f"weights belong to a 'sum' and need the shape of rows {tuple(rows.shape)}")
        if how == "sum" and weights is None and self._trains() and self.gradient == "row":
            if self.before_lookup is not None:
                self.before_lookup(rows)
            return _RecordingSum.apply(self.weight, rows, self)
        vectors = self(rows)
        if how == "concat":
            return vectors.flatten(-2)
        if how == "product":
            return vectors.prod(-2)
        return vectors.sum(-2) if weights is None else torch.einsum("...kd,...k->...d", vectors, weights)

    def _trains(self) -> bool:
        return torch.is_grad_enabled() and self.weight.requires_grad

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a running step, so that a copied store does not copy its optimizer."""
        return {**self.__dict__, "pending": [], "_summed": None, "before_lookup": None}

    def extra_repr(self) -> str:
        return f"{self.num_rows}, {self.row_dim}, dtype={self.weight.dtype}, gradient={self.gradient!r}"


def _gather(weight: Tensor, rows: Tensor) -> Tensor:
    if is_eager(weight, rows):
        return kernels_for(weight.device).gather(weight, rows)
    return nn.functional.embedding(rows, weight)


class _RecordingGather(torch.autograd.Function):
    """A gather whose backward keeps (rows, gradients) in the store instead of building a gradient for its weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, store: RowStore) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.store = store
        return _gather(weight, rows)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        ctx.store.pending.append((rows.reshape(-1).long(), grad_output.reshape(rows.numel(), ctx.store.row_dim)))
        return None, None, None


class _RecordingSum(torch.autograd.Function):
    """The sum of k rows; all of them get the same gradient, which is kept once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, store: RowStore) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.store = store
        return _gather(weight, rows).sum(-2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        gradients = grad_output.reshape(-1, ctx.store.row_dim)
        for column in rows.long().reshape(-1, rows.shape[-1]).unbind(1):
            ctx.store.pending.append((column, gradients))
        return None, None, None

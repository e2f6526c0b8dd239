"""A store of embedding rows and the lookup that records what a step touched.

``RowStore`` is where every table keeps its rows. In what form it holds them is a row format
(:mod:`rectab.ops.formats`); how its gradient reaches an optimizer is a choice:

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
from rectab.ops.formats import FloatFormat, RowFormat, float_format, get_format

__all__ = ["Gradient", "RowStore"]

Gradient = Literal["row", "sparse", "dense"]

_ROWS_AT_A_TIME = 1 << 16


class RowStore(nn.Module):
    """``num_rows`` vectors of ``row_dim`` elements.

    Float formats hold them in a parameter ``weight`` [num_rows, row_dim]; other formats in buffers of their own names.

    Args:
        num_rows: number of rows, at least 1.
        row_dim: width of a row.
        init_std: rows start as N(0, init_std^2).
        generator: source of the initial values; torch's default if None.
        gradient: ``row``, ``sparse`` or ``dense``, see the module's text.
        rows: name of the row format, see :func:`rectab.ops.formats.formats`.
        device: where the rows are; ``meta`` allocates nothing.

    Raises:
        ValueError: an option is not valid, or the format and the gradient do not go together.
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
        rows: str = "fp32",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if num_rows < 1 or row_dim < 1:
            raise ValueError(f"a row store needs at least one row and one element, got {num_rows} x {row_dim}")
        self.format = get_format(rows)
        _check_gradient(self.format, gradient)
        self.num_rows, self.row_dim = num_rows, row_dim
        self.gradient: Gradient = gradient
        self.pending: list[tuple[Tensor, Tensor]] = []
        self._summed: Tensor | None = None  # the rows of ``pending`` if they are known to be distinct
        self.before_lookup: Callable[[Tensor], None] | None = None
        """Set by a row optimizer whose decay is ``full``: brings rows up to date before they are read."""
        tensors = self.format.tensors(num_rows, row_dim, device)
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            if isinstance(self.format, FloatFormat):
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        if not isinstance(self.format, FloatFormat):
            self._anchor = torch.zeros((), requires_grad=self.format.trains)
        if self.device.type != "meta":
            self._initialise(init_std, generator)

    @torch.no_grad()
    def _initialise(self, std: float, generator: torch.Generator | None) -> None:
        if isinstance(self.format, FloatFormat):
            self.weight.normal_(0.0, std, generator=generator)
            return
        for start in range(0, self.num_rows, _ROWS_AT_A_TIME):
            end = min(start + _ROWS_AT_A_TIME, self.num_rows)
            values = self.new_zeros(end - start, self.row_dim).normal_(0.0, std, generator=generator)
            self.write(slice(start, end), values)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What holds the rows, by name."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def trained(self) -> bool:
        """Whether lookups reach an optimizer. Settable; for float formats it is ``weight.requires_grad``."""
        return self.anchor.requires_grad

    @trained.setter
    def trained(self, trained: bool) -> None:
        if trained and not self.format.trains:
            raise ValueError(f"rows held as {self.format.name} cannot be trained")
        self.anchor.requires_grad_(trained)

    @property
    def anchor(self) -> Tensor:
        """What stands for the rows in autograd's graph: the weight, or an empty scalar where integers hold them."""
        return self.weight if isinstance(self.format, FloatFormat) else self._anchor

    @torch.no_grad()
    def read(self, rows: Tensor | slice) -> Tensor:
        """int64 [*] row numbers -> float [*, row_dim]: the values as they are held, without a gradient."""
        return self.format.read(self.tensors, self._numbers(rows))

    @torch.no_grad()
    def write(self, rows: Tensor | slice, values: Tensor, salt: int | None = None) -> None:
        """Hold float ``values`` [n, row_dim] in the distinct ``rows`` int64 [n]; see :meth:`RowFormat.write`."""
        self.format.write(self.tensors, self._numbers(rows), values, salt)

    def _numbers(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return torch.arange(*rows.indices(self.num_rows), device=self.device)
        return rows

    def new_zeros(self, *shape: int) -> Tensor:
        """Zeros of the type and on the device of this store's vectors."""
        return torch.zeros(*shape, dtype=self._dtype, device=self.device)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the vectors."""
        wide = isinstance(self.format, FloatFormat) and self.format.dtype == torch.float64
        return torch.float64 if wide else torch.float32

    def forward(self, rows: Tensor) -> Tensor:
        """int64 [*] row numbers -> float32 [*, row_dim] (float64 for rows held so), with a gradient.

        Raises:
            IndexError: a row is outside the store.
        """
        if self.before_lookup is not None:
            self.before_lookup(rows)
        if not (torch.is_grad_enabled() and self.trained):
            return self._gather(rows)
        if self.gradient == "row":
            return _RecordingGather.apply(self.anchor, rows, self)
        return _at_least_fp32(nn.functional.embedding(rows, self.weight, sparse=self.gradient == "sparse"))

    def _gather(self, rows: Tensor) -> Tensor:
        if not isinstance(self.format, FloatFormat):
            return self.format.read(self.tensors, rows)
        if is_eager(self.weight, rows):
            return _at_least_fp32(kernels_for(self.device).gather(self.weight, rows))
        return _at_least_fp32(nn.functional.embedding(rows, self.weight))

    def sum_pending(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor]:
        """(distinct rows int64 [u], the sum of each one's pending gradients fp32 [u, D]); ``pending`` becomes these."""
        if len(self.pending) != 1 or self.pending[0][0] is not self._summed:
            self.pending = [kernels_for(self.device, kernel).coalesce(self.pending, self.row_dim)]
            self._summed = self.pending[0][0]
        return self.pending[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowStore:
        """Move the rows. ``store.half()`` converts rows of floats, and leaves other formats as they are."""
        held = {} if isinstance(self.format, FloatFormat) else self.tensors
        super()._apply(fn, recurse)
        if isinstance(self.format, FloatFormat):
            self.format = float_format(self.weight.dtype)
        for name, tensor in held.items():
            if getattr(self, name).dtype != tensor.dtype:
                setattr(self, name, tensor.to(getattr(self, name).device))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a running step, so that a copied store does not copy its optimizer."""
        return {**self.__dict__, "pending": [], "_summed": None, "before_lookup": None}

    def extra_repr(self) -> str:
        return f"{self.num_rows}, {self.row_dim}, rows={self.format.name!r}, gradient={self.gradient!r}"


def _check_gradient(row_format: RowFormat, gradient: Gradient) -> None:
    if gradient not in ("row", "sparse", "dense"):
        raise ValueError(f"gradient must be 'row', 'sparse' or 'dense', got {gradient!r}")
    if gradient != "row" and not isinstance(row_format, FloatFormat):
        raise ValueError(
            f"rows held as {row_format.name} have no gradient that torch's own optimizers could take; use gradient "
            "'row' and a row optimizer"
        )


def _at_least_fp32(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


class _RecordingGather(torch.autograd.Function):
    """A gather whose backward keeps (rows, gradients) in the store instead of building a gradient for its weight."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Tensor, store: RowStore) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.store = store
        return store._gather(rows)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, None, None]:
        (rows,) = ctx.saved_tensors
        if grad_output.dtype == torch.float64:
            raise ValueError(
                "row optimizers compute in fp32; train rows held as fp64 with gradient 'dense' or 'sparse'"
            )
        ctx.store.pending.append((rows.reshape(-1).long(), grad_output.reshape(rows.numel(), ctx.store.row_dim)))
        return None, None, None

"""A store of embedding rows and the lookup that records what a step touched.

``RowStore`` is where every table keeps its rows. In what form it holds them is a row format
(:mod:`rectab.ops.formats`); how its gradient reaches an optimizer is a choice:

* ``row``: the backward pass keeps (rows, gradients) beside the store (:mod:`rectab.ops.gradients`); a row optimizer
  (:mod:`rectab.optim`) updates only those rows, so a step costs what the batch costs, whatever the size of the table.
* ``sparse`` and ``dense``: ordinary torch gradients, for a host's own optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rectab.ops.dispatch import is_eager, kernels_for
from rectab.ops.formats import CodesFormat, FloatFormat, RowFormat, float_format, get_format
from rectab.ops.gradients import RowGradients, new_handle
from rectab.ops.memory import holds_rows
from rectab.ops.steps import HeldSteps, LearnedSteps, StepsFrom, new_steps

__all__ = ["Gradient", "RowStore"]

Gradient = Literal["row", "sparse", "dense"]

_ROWS_AT_A_TIME = 1 << 16
_NOTICED = 0.02  # deviation of a standard deviation


class RowStore(nn.Module):
    """``num_rows`` vectors of ``row_dim`` elements.

    Float formats hold them in a parameter ``weight`` [num_rows, row_dim]; other formats in buffers of their own names.
    With row gradients there is a parameter ``handle`` besides, which belongs to the loop (:mod:`rectab.ops.gradients`)
    and not to the rows: it is neither counted nor saved.

    Args:
        num_rows: number of rows, at least 1.
        row_dim: width of a row.
        init_std: rows start as N(0, init_std^2).
        generator: source of the initial values; torch's default if None.
        gradient: ``row``, ``sparse`` or ``dense``, see the module's text.
        rows: the row format, or its name, see :func:`rectab.ops.formats.formats`.
        device: where the rows are; ``meta`` allocates nothing.
        groups: rows of every group that shares a step, for formats of such steps; None for one group of all rows.
        steps: from when on formats of learned steps learn them: the ``start``, if rows are not 0 then; when the rows
            are ``filled``, by whoever fills them (:meth:`fit_steps`); ``never``: they train as plain floats.

    Raises:
        ValueError: an option is not valid, or the format and the gradient do not go together.
    """

    weight: nn.Parameter
    handle: nn.Parameter

    def __init__(
        self,
        num_rows: int,
        row_dim: int,
        *,
        init_std: float = 0.01,
        generator: torch.Generator | None = None,
        gradient: Gradient = "row",
        rows: str | RowFormat = "fp32",
        device: torch.device | str | None = None,
        groups: Sequence[int] | None = None,
        steps: StepsFrom = "start",
    ) -> None:
        super().__init__()
        if num_rows < 1 or row_dim < 1:
            raise ValueError(f"a row store needs at least one row and one element, got {num_rows} x {row_dim}")
        self.format = get_format(rows) if isinstance(rows, str) else rows
        gradient = "row" if isinstance(self.format, CodesFormat) else gradient  # which never trains
        _check_gradient(self.format, gradient)
        self.num_rows, self.row_dim = num_rows, row_dim
        self.gradient: Gradient = gradient
        self.dtype = torch.float64 if self.format.name == "fp64" else torch.float32
        """Of the vectors that lookups give; ``store.half()`` changes it, as it does for any module."""
        self.gradients = RowGradients(row_dim)
        self.before_lookup: Callable[[Tensor], None] | None = None
        """Called with the rows of every lookup; a row optimizer whose decay is ``full`` brings them up to date."""
        self.read_as: Callable[[Tensor], Tensor] | None = None
        """Gives the values that a lookup sees, where a row optimizer says so; None for the values held."""
        tensors = self.format.tensors(num_rows, row_dim, device)
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            if isinstance(self.format, FloatFormat):
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=gradient != "row"))
            else:
                self.register_buffer(name, tensor)
        if gradient == "row":
            self.handle = new_handle(device, self.format.trains)
        learns = steps == "filled" or (steps == "start" and init_std > 0)
        self.steps = new_steps(self.format, groups or (num_rows,), row_dim, device, learns)
        if self.device.type != "meta" and not holds_rows(next(iter(tensors.values()))):
            self._initialise(init_std, generator)

    @torch.no_grad()
    def _initialise(self, std: float, generator: torch.Generator | None) -> None:
        floats, drawn_at = isinstance(self.format, FloatFormat), self.device if generator is None else generator.device
        if floats and std == 0.0:
            self.weight.zero_()
            return
        if floats and drawn_at == self.device:
            self.weight.normal_(0.0, std, generator=generator)
            self.fit_steps()
            return
        for start in range(0, self.num_rows, _ROWS_AT_A_TIME):
            rows = slice(start, min(start + _ROWS_AT_A_TIME, self.num_rows))
            values = torch.zeros(rows.stop - start, self.row_dim, dtype=self.dtype, device=drawn_at)
            values = values.normal_(0.0, std, generator=generator).to(self.device)
            self.write(rows, values)
            if floats:
                continue
            shrunk = float(values.std(correction=0) / self.read(rows).std(correction=0).clamp(min=1e-30))
            if abs(shrunk - 1) > _NOTICED:  # the nearest values of few levels are smaller on the whole
                self.write(rows, shrunk * values)
        self.fit_steps()

    @torch.no_grad()
    def fit_steps(self) -> None:
        """Learned steps begin where the rows, as they are, are said best; and these as large as they were meant."""
        if isinstance(self.steps, LearnedSteps):
            shrunk = self.steps.fit(self.weight)
            if abs(shrunk - 1) > _NOTICED:
                self.weight.mul_(shrunk)
                self.steps.fit(self.weight)

    # What it holds.

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What holds the rows, by name."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @torch.no_grad()
    def read(self, rows: Tensor | slice) -> Tensor:
        """int64 [*] row numbers -> float [*, row_dim]: the values as they are held, without a gradient."""
        numbers = self._numbers(rows)
        held = self.format.read(self.tensors, numbers, self.row_dim)
        return self.steps(held, numbers) if isinstance(self.steps, HeldSteps) else held

    @torch.no_grad()
    def write(self, rows: Tensor | slice, values: Tensor, salt: int | None = None) -> None:
        """Hold float ``values`` [n, row_dim] in the distinct ``rows`` int64 [n]; see :meth:`RowFormat.write`."""
        numbers = self._numbers(rows)
        if isinstance(self.steps, HeldSteps):
            values = values.float() * (1 / self.steps.of_rows(self.steps.step, numbers))
        self.format.write(self.tensors, numbers, values, salt)

    def _numbers(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return torch.arange(*rows.indices(self.num_rows), device=self.device)
        return rows

    def new_zeros(self, *shape: int) -> Tensor:
        """Zeros of the type and on the device of this store's vectors."""
        return torch.zeros(*shape, dtype=self.dtype, device=self.device)

    # What trains it.

    @property
    def anchor(self) -> nn.Parameter:
        """The parameter that autograd and optimizers know the rows by: the weight, or the handle of row gradients."""
        return self.handle if self.gradient == "row" else self.weight

    @property
    def trained(self) -> bool:
        """Whether lookups reach an optimizer: ``requires_grad`` of :attr:`anchor`. Settable."""
        return self.anchor.requires_grad

    @trained.setter
    def trained(self, trained: bool) -> None:
        if trained and not self.format.trains:
            raise ValueError(f"rows held as {self.format.name} cannot be trained")
        self.anchor.requires_grad_(trained)

    @property
    def pending(self) -> list[tuple[Tensor, Tensor]]:
        """(rows int64 [n], gradients [n, row_dim]) that wait for a step, as the loop around them has left them."""
        return self.gradients.parts

    # Lookups.

    @property
    def reads_plainly(self) -> bool:
        """Whether a lookup is nothing but a copy of fp32 rows: no gradient is recorded, no step is made up for."""
        recorded = torch.is_grad_enabled() and self.trained
        plain = self.format.name == "fp32" and self.dtype == torch.float32 and self.before_lookup is None
        return plain and not recorded

    def forward(self, rows: Tensor) -> Tensor:
        """int64 [*] row numbers -> [*, row_dim] of :attr:`dtype`, with a gradient.

        Raises:
            IndexError: a row is outside the store.
        """
        if self.before_lookup is not None:
            self.before_lookup(rows)
        vectors = self._looked_up(rows)
        return vectors if self.steps is None else self.steps(vectors, rows).to(self.dtype)

    def _looked_up(self, rows: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.trained):
            return self._gather(rows)
        if self.gradient == "row":
            self.gradients.listen(self.handle)
            gathered: Tensor = _RecordingGather.apply(self.handle, rows, self)
            return gathered
        return self._embedded(rows)

    def _embedded(self, rows: Tensor) -> Tensor:
        """By torch's own operation, with and without a gradient alike: a trace must not depend on that."""
        vectors = nn.functional.embedding(rows, self.weight, sparse=self.gradient == "sparse")
        return vectors.to(self.dtype)

    def _gather(self, rows: Tensor) -> Tensor:
        if isinstance(self.format, FloatFormat):
            if is_eager(self.weight, rows):
                return kernels_for(self.device).gather(self.weight, rows, self.dtype)
            return self._embedded(rows)
        read = self.read_as or partial(self.format.read, self.tensors, row_dim=self.row_dim)
        return read(rows).to(self.dtype)

    # What torch's modules do.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RowStore:
        """Move the rows. ``store.half()`` converts vectors, and rows that are held as floats; no other format."""
        converted = fn(torch.zeros(1, dtype=self.dtype, device=self.device))
        self.dtype = converted.dtype
        kept = {name: t for name, t in self.tensors.items() if not isinstance(self.format, FloatFormat)}
        super()._apply(fn, recurse)
        if isinstance(self.format, FloatFormat) and self.format.dtype != self.weight.dtype:
            self.format = float_format(self.weight.dtype)
        for name, tensor in kept.items():
            if getattr(self, name).dtype != tensor.dtype:
                setattr(self, name, tensor.to(getattr(self, name).device))
        if self.gradient == "row" and self.handle.dtype != torch.float32:
            self.handle.data, self.handle.grad = self.handle.data.float(), None
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}handle", None)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)
        if f"{prefix}handle" in missing:
            missing.remove(f"{prefix}handle")

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a running loop, so that a copied store does not copy its optimizer."""
        return {**self.__dict__, "gradients": RowGradients(self.row_dim), "before_lookup": None, "read_as": None}

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


class _RecordingGather(torch.autograd.Function):
    """A gather whose backward keeps (rows, gradients) beside the store; the weight gets no gradient."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, rows: Tensor, store: RowStore) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.store = store
        return store._gather(rows)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        store: RowStore = ctx.store
        store.gradients.record(rows.reshape(-1).long(), grad_output.reshape(rows.numel(), store.row_dim))
        return torch.zeros_like(store.handle), None, None

"""The steps that groups of rows share: learned while the rows train, and as they are served.

A group is a range of rows, one a vocabulary where a table has such ranges, else all rows of a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rectab.ops.formats import CodesFormat, LatentFormat, RowFormat
from rectab.ops.grids import Grid
from rectab.ops.searching import last_at_or_before

__all__ = ["HeldSteps", "LearnedSteps", "StepsFrom", "new_steps"]

StepsFrom = Literal["start", "filled", "never"]

_SHARES = tuple(2.0 ** (-k / 4) for k in range(25))
_SAMPLE = 1 << 14
_SMALLEST = 1e-12


class _Groups(nn.Module):
    """Base: in which group a row is.

    Args:
        sizes: rows of every group, in their order.
    """

    first: Tensor

    def __init__(self, sizes: Sequence[int], device: torch.device | str | None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        if len(sizes) > 1:
            first = torch.tensor([0, *accumulate(self.sizes[:-1])], dtype=torch.int64)
            self.register_buffer("first", first.to(device))

    def of_rows(self, per_group: Tensor, rows: Tensor) -> Tensor:
        """[G], int64 [*] -> [*, 1] or, of a single group, [1]."""
        if len(self.sizes) == 1:
            return per_group
        return per_group[last_at_or_before(self.first, rows)].unsqueeze(-1)


class HeldSteps(_Groups):
    """Steps of rows that are served.

    Memory: 4 bytes a group, and 8 for its first row if there are several.
    """

    step: Tensor

    def __init__(self, sizes: Sequence[int], device: torch.device | str | None) -> None:
        super().__init__(sizes, device)
        self.register_buffer("step", torch.ones(len(self.sizes), device=device))

    @staticmethod
    def bytes_of(num_groups: int) -> int:
        """Bytes of the tensors."""
        return 4 * num_groups + (8 * num_groups if num_groups > 1 else 0)

    def forward(self, levels: Tensor, rows: Tensor) -> Tensor:
        """fp32 [*, D] values in units of the step, of rows int64 [*] -> fp32 [*, D]."""
        return levels * self.of_rows(self.step, rows)


class LearnedSteps(_Groups):
    """Steps that are learned: gradients of LSQ, with respect to the logarithm of the step.

    A step starts where the squared error of the rows is least. It is learned by its logarithm because embeddings are
    small: a rate that is right for weights of one size would be several steps.

    Args:
        sizes: rows of every group.
        grid: of the codes.
        row_dim: width of a row; by the elements of a group the gradient of its step is scaled.
    """

    def __init__(self, sizes: Sequence[int], grid: Grid, row_dim: int, device: torch.device | str | None) -> None:
        super().__init__(sizes, device)
        self.grid = grid
        self.log_step = nn.Parameter(torch.zeros(len(self.sizes), device=device))
        largest = grid.levels - 1 - grid.offset
        self.gradient_scales = tuple((size * row_dim * largest) ** -0.5 for size in self.sizes)

    @property
    def step(self) -> Tensor:
        """fp32 [G]."""
        return self.log_step.exp()

    def forward(self, values: Tensor, rows: Tensor) -> Tensor:
        """fp32 [*, D] of rows int64 [*] -> fp32 [*, D]: the nearest that the codes can say."""
        step = self.step
        if torch.is_grad_enabled() and step.requires_grad:
            scaled = step * torch.tensor(self.gradient_scales, device=step.device)
            step = scaled + (step - scaled).detach()
        quantised: Tensor = _Quantise.apply(values, self.of_rows(step, rows), self.grid)
        return quantised

    @torch.no_grad()
    def fit(self, weight: Tensor) -> float:
        """Set every step to that of the least squared error of its rows; weight is [num_rows, D].

        Returns:
            By how much the rows' root mean square is more than that of what is read of them.
        """
        asked = read = 0.0
        for group, rows in enumerate(weight.split(self.sizes)):
            sample = rows[:: max(1, rows.shape[0] // _SAMPLE)].float()
            step = self._best(sample)
            self.log_step[group] = step.log()
            asked += float(sample.square().sum())
            read += float(self.grid.values(self.grid.nearest(sample, step), step).square().sum())
        return (asked / read) ** 0.5 if read else 1.0

    def _best(self, rows: Tensor) -> Tensor:
        largest = rows.abs().max().clamp(min=_SMALLEST) / max(self.grid.levels - 1 - self.grid.offset, 0.5)
        steps = largest * torch.tensor(_SHARES, device=rows.device)
        errors = [(self.grid.values(self.grid.nearest(rows, s), s) - rows).square().sum() for s in steps]
        return steps[int(torch.stack(errors).argmin())]


def new_steps(
    row_format: RowFormat, groups: Sequence[int], row_dim: int, device: torch.device | str | None, learns: bool
) -> HeldSteps | LearnedSteps | None:
    """Those of a store: none of formats without, and none of rows that train as floats and are encoded then."""
    if isinstance(row_format, CodesFormat):
        return HeldSteps(groups, device)
    if isinstance(row_format, LatentFormat) and row_format.learned and learns:
        return LearnedSteps(groups, row_format.served.grid, row_dim, device)
    return None


class _Quantise(torch.autograd.Function):
    """The nearest level times the step; gradients of Esser et al. 2020, equations 3 and 5."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: Tensor, grid: Grid) -> Tensor:
        codes = grid.nearest(values, steps)
        ctx.save_for_backward(values, steps, codes)
        ctx.grid = grid
        return grid.values(codes, steps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        values, steps, codes = ctx.saved_tensors
        grid: Grid = ctx.grid
        scaled, levels = values / steps, codes.to(values.dtype) - grid.offset
        inside = (scaled >= -grid.offset) & (scaled <= grid.levels - 1 - grid.offset)
        of_steps = gradient * torch.where(inside, levels - scaled, levels)
        of_steps = of_steps.sum(-1, keepdim=True) if steps.dim() == gradient.dim() else of_steps.sum().reshape(1)
        return gradient * inside, of_steps, None

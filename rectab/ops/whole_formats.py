"""Row formats of whole numbers beside those of few bits: 16 bits a value, and steps that a rule has learned.

Values are ``code * step`` with a step a row, as in :mod:`rectab.ops.coded_formats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rectab.ops.coded_formats import CodeRule, GridFormat, Int8Format, write_by_kernel
from rectab.ops.dispatch import find_kernel, is_eager
from rectab.ops.grids import GRIDS
from rectab.ops.memory import empty_rows, filled_rows, holds_rows
from rectab.ops.rounding import random_fractions

__all__ = ["Int16Format", "LearnedGridFormat", "LearnedInt8Format", "learned_format"]

_TOP_16, _KEPT_16 = 32767, 24576


@dataclass(frozen=True)
class Int16Format:
    """Two bytes an element and a bf16 scale a row: steps of a 32767th of the largest element are too small for fp16,
    and codes of 15 bits times scales of 8 are exact in fp32.

    A new scale is that of the row's largest element, rounded up; it is kept while that takes a code of 24576 or more.
    """

    name: str = "int16"
    trains: bool = True

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {
            "codes": empty_rows(num_rows, row_dim, dtype=torch.int16, device=device),
            "scale": filled_rows(num_rows, dtype=torch.bfloat16, device=device),
        }

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        codes, scale = tensors["codes"], tensors["scale"]
        kernel = find_kernel("whole", "gather", codes.device) if is_eager(codes, rows) else None
        if kernel is not None:
            found: Tensor = kernel(codes, scale, rows)
            return found
        return torch.nn.functional.embedding(rows, codes).float() * scale[rows].float().unsqueeze(-1)

    @cached_property
    def rule(self) -> CodeRule:
        return CodeRule(16, _TOP_16, "unclipped", kept_from=_KEPT_16)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values = values.float()
        if write_by_kernel(tensors, rows, values, salt, self.rule):
            return
        held = tensors["scale"][rows].float()
        largest = values.abs().amax(1)
        kept = (largest <= _TOP_16 * held) & (largest >= _KEPT_16 * held)
        scale = torch.where(kept, held, _rounded_up_to_bf16(largest / _TOP_16))
        tensors["codes"][rows] = _rounded(rows, values, scale, _TOP_16, salt).to(torch.int16)
        tensors["scale"][rows] = scale.bfloat16()

    def row_bytes(self, row_dim: int) -> float:
        return 2 * row_dim + 2


def _rounded(rows: Tensor, values: Tensor, scale: Tensor, top: int, salt: int | None) -> Tensor:
    """fp32 [n, D]: whole numbers of steps, at most ``top``; stochastically with a salt."""
    steps = values / torch.where(scale > 0, scale, 1.0).unsqueeze(1)
    if salt is None:
        return steps.round().clamp(-top, top)
    return (steps + random_fractions(rows, values.shape[1], salt)).floor().clamp(-top, top)


def _rounded_up_to_bf16(values: Tensor) -> Tensor:
    """fp32 [n], at least 0 -> fp32 [n]: the smallest bf16 number that is not below."""
    return ((values.view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32).where(values.isfinite(), values)


def _with_first_step(tensors: dict[str, Tensor], first_step: float) -> dict[str, Tensor]:
    """The step that rows start with, unless they lie in a file that was opened again."""
    if not holds_rows(tensors["scale"]):
        tensors["scale"].fill_(first_step)
    return tensors


@dataclass(frozen=True)
class LearnedInt8Format(Int8Format):
    """int8 rows whose steps nobody changes but a rule; what is beyond the largest code is clipped.

    Attributes:
        first_step: of every row.
    """

    first_step: float = 0.01

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return _with_first_step(super().tensors(num_rows, row_dim, device), self.first_step)

    @cached_property
    def rule(self) -> CodeRule:
        return CodeRule(8, 127, "held")

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values = values.float()
        if write_by_kernel(tensors, rows, values, salt, self.rule):
            return
        scale = tensors["scale"][rows].float()
        tensors["codes"][rows] = _rounded(rows, values, scale, 127, salt).to(torch.int8)


@dataclass(frozen=True)
class LearnedGridFormat(GridFormat):
    """As :class:`LearnedInt8Format`, in a grid of fewer levels."""

    first_step: float = 0.01

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return _with_first_step(super().tensors(num_rows, row_dim, device), self.first_step)

    @cached_property
    def rule(self) -> CodeRule:
        return CodeRule(self.grid.bits, int(self.grid.offset) - 1, "held", after=self.grid.offset)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values, top = values.float(), int(self.grid.offset) - 1
        if write_by_kernel(tensors, rows, values, salt, self.rule):
            return
        scale = tensors["scale"][rows].float()
        codes = _rounded(rows, values, scale, top, salt) + self.grid.offset
        tensors["codes"][rows] = self.grid.pack(codes.to(torch.int32))


def learned_format(bits: int, first_step: float) -> Any:
    """Rows of 8, 6 or 4 bits an element and a learned step. Raises ValueError for other numbers of bits."""
    if bits == 8:
        return LearnedInt8Format(first_step=first_step)
    if bits not in (4, 6):
        raise ValueError(f"steps are learned of rows of 8, 6 or 4 bits, got {bits}")
    return LearnedGridFormat(GRIDS[f"int{bits}"], first_step=first_step)

"""Row formats of few bits: codes of small integers and an fp16 scale a row.

A value is ``(code - offset) * scale`` (:mod:`rectab.ops.grids`), an exact product in fp32, so every implementation
reads the same floats. Codes of less than 8 bits lie bit-packed, a stream a row (:mod:`rectab.ops.packing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.dispatch import find_kernel, is_eager
from rectab.ops.grids import Grid
from rectab.ops.memory import empty_rows, filled_rows
from rectab.ops.rounding import random_fractions

__all__ = ["CodeRule", "GridFormat", "Int8Format", "coded_kernel", "write_by_kernel"]

_FEW_LEVELS = 8
_KEPT = 0.75
_SHARES = tuple(i / 16 for i in range(16, 3, -1))


@dataclass(frozen=True)
class CodeRule:
    """What a kernel must know to write updated rows: a code is ``floor(value / scale + before + random) + after``.

    Attributes:
        bits: of a code in a stream; 0 for ternary digits. Signed codes are whole numbers of their tensor's type.
        top: steps from 0 to the last level.
        scale: ``held``, as it is; ``unclipped``, that of the largest element unless the one held is near; ``nearest``,
            of the least squared error.
        kept_from: of ``unclipped``: the held scale is near, if by it the largest element is this many steps or more.
        before, after: added before and after rounding.
    """

    bits: int
    top: float
    scale: Literal["held", "unclipped", "nearest"]
    kept_from: float = 0.0
    before: float = 0.0
    after: float = 0.0

    @property
    def across_bytes(self) -> bool:
        """Whether a code may begin in one byte and end in the next."""
        return self.bits not in (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Int8Format:
    """One byte an element and an fp16 scale a row: ``value = code * scale``, codes in -127..127.

    A new scale is that of the row's largest element, rounded up, so that no code is clipped. A row keeps the scale it
    has while its largest element takes a code of 96 to 127: elements that did not move are then not rounded again.
    """

    name: str = "int8"
    trains: bool = True

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {
            "codes": empty_rows(num_rows, row_dim, dtype=torch.int8, device=device),
            "scale": filled_rows(num_rows, dtype=torch.float16, device=device),
        }

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        codes, scale = tensors["codes"], tensors["scale"]
        kernel = coded_kernel(codes, rows)
        if kernel is not None:
            return kernel(codes, scale, rows, row_dim, 8, 0.0)
        return torch.nn.functional.embedding(rows, codes).float() * scale[rows].float().unsqueeze(-1)

    @cached_property
    def rule(self) -> CodeRule:
        return CodeRule(8, 127, "unclipped", kept_from=96)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values, rule = values.float(), self.rule
        if write_by_kernel(tensors, rows, values, salt, rule):
            return
        scale = _unclipped(values, tensors["scale"][rows], rule.top, rule.kept_from)
        steps = values / torch.where(scale > 0, scale, 1.0).float().unsqueeze(1)
        codes = steps.round() if salt is None else (steps + random_fractions(rows, values.shape[1], salt)).floor()
        tensors["codes"][rows] = codes.clamp(-rule.top, rule.top).to(torch.int8)
        tensors["scale"][rows] = scale

    def row_bytes(self, row_dim: int) -> float:
        return row_dim + 2


@dataclass(frozen=True)
class GridFormat:
    """Codes of a grid of few levels, bit-packed, and an fp16 scale a row.

    int6 and int4: as :class:`Int8Format`, a new scale clips nothing, and is kept while the largest element takes three
    quarters of the largest code or more. Of fewer levels the scale is that of the least squared error of the row, which
    clips its largest elements: by the scale of its largest one, a row of two or three levels grows with every update.

    Attributes:
        grid: its levels; those beyond a sign's last are not used, so that the levels are as many on both sides.
        trains: True.
    """

    grid: Grid
    trains: bool = True

    @property
    def name(self) -> str:
        return self.grid.name

    @property
    def _top(self) -> float:
        """Steps from 0 to the last level."""
        return self.grid.levels - 1 - self.grid.offset

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {
            "codes": empty_rows(num_rows, self.grid.bytes(row_dim), dtype=torch.uint8, device=device),
            "scale": filled_rows(num_rows, dtype=torch.float16, device=device),
        }

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        codes, scale = tensors["codes"], tensors["scale"]
        kernel = coded_kernel(codes, rows, self.rule.across_bytes)
        if kernel is not None:
            return kernel(codes, scale, rows, row_dim, self.grid.bits, self.grid.offset)
        unpacked = self.grid.unpack(torch.nn.functional.embedding(rows, codes), row_dim)
        return self.grid.values(unpacked, scale[rows].float().unsqueeze(-1))

    @cached_property
    def rule(self) -> CodeRule:
        scale: Literal["unclipped", "nearest"] = "nearest" if self.grid.levels <= _FEW_LEVELS else "unclipped"
        return CodeRule(self.grid.bits, self._top, scale, _KEPT * self._top, before=self.grid.offset)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values, rule = values.float(), self.rule
        if write_by_kernel(tensors, rows, values, salt, rule):
            return
        held = tensors["scale"][rows]
        if rule.scale == "nearest":
            scale = self._nearest_scale(values, held)
        else:
            scale = _unclipped(values, held, rule.top, rule.kept_from)
        codes = self._codes(values, scale, 0.5 if salt is None else random_fractions(rows, values.shape[1], salt))
        tensors["codes"][rows] = self.grid.pack(codes)
        tensors["scale"][rows] = scale

    def _codes(self, values: Tensor, scale: Tensor, added: Tensor | float) -> Tensor:
        """int32 [n, D]: the levels below ``values / scale + added``, within the grid."""
        steps = values / torch.where(scale > 0, scale, 1.0).float().unsqueeze(1)
        low, high = self.grid.offset - self._top, self.grid.offset + self._top
        # What is not finite has such a scale as well, whatever its codes are.
        return (steps + self.grid.offset + added).floor().nan_to_num(low).clamp(low, high).to(torch.int32)

    def _nearest_scale(self, values: Tensor, held: Tensor) -> Tensor:
        """fp16 [n]: of the least squared error; what is held, if none is better."""
        largest = _rounded_up_to_fp16(values.abs().amax(1) / self._top)
        best, error = held, self._squared_error(values, held)
        for share in (*_SHARES, None):
            scale = (self._fitted_scale(values, best) if share is None else largest.float() * share).half()
            other = self._squared_error(values, scale)
            # A row that is not finite gets a scale that says so.
            better = (other < error) | ~torch.isfinite(other)
            best, error = torch.where(better, scale, best), torch.where(better, other, error)
        return best

    def _fitted_scale(self, values: Tensor, scale: Tensor) -> Tensor:
        """fp32 [n]: the best scale for the codes that ``scale`` gives."""
        steps = self._codes(values, scale, 0.5).float() - self.grid.offset
        return (values * steps).sum(1) / steps.square().sum(1).clamp(min=0.25)

    def _squared_error(self, values: Tensor, scale: Tensor) -> Tensor:
        read = self.grid.values(self._codes(values, scale, 0.5), scale.float().unsqueeze(1))
        return (read - values).square().sum(1)

    def row_bytes(self, row_dim: int) -> float:
        return self.grid.bytes(row_dim) + 2


def coded_kernel(codes: Tensor, rows: Tensor, across_bytes: bool = False, what: str = "gather") -> Any:
    """The kernel that reads codes, ``coded_gather``, or another; None where the reference must."""
    # On an H200 triton 3.6 read codes that reach across two bytes wrongly (int3, D = 16). The kernels take three bytes
    # at a time since; until a GPU has shown that this is right (`make gpu-check`), the reference does it on CUDA.
    if not is_eager(codes, rows) or (across_bytes and codes.is_cuda):
        return None
    return find_kernel("coded", what, codes.device)


def write_by_kernel(tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None, rule: CodeRule) -> bool:
    """Write updated rows (:meth:`rectab.ops.formats.RowFormat.write`), if there is a kernel for where they are."""
    eager = salt is not None and is_eager(values)
    kernel = coded_kernel(tensors["codes"], rows, rule.across_bytes, "write") if eager else None
    if kernel is not None:
        kernel(tensors, rows, values, salt, rule)
    return kernel is not None


def _unclipped(values: Tensor, held: Tensor, top: float, kept_from: float) -> Tensor:
    """fp16 [n]: the scale by which the row's largest element is ``top``; the one held, if by that it is as much as
    ``kept_from``."""
    largest = values.abs().amax(1)
    fits = (largest <= top * held.float()) & (largest >= kept_from * held.float())
    return torch.where(fits, held, _rounded_up_to_fp16(largest / top))


def _rounded_up_to_fp16(values: Tensor) -> Tensor:
    """float32 [n], at least 0 -> fp16 [n]: the smallest that is not below; what is not finite stays so."""
    nearest = values.half()
    return (nearest.view(torch.int16) + (nearest.float() < values).to(torch.int16)).view(torch.float16)

"""Uniform grids of few levels: a value is ``(code - offset) * step``.

Grids of 1 and 2 bits have no level at 0 (offsets .5 and 1.5), so that all their levels are used; those of 3 bits and
more and the ternary one have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops.packing import pack_codes, pack_trits, packed_bytes, trit_bytes, unpack_codes, unpack_trits

__all__ = ["GRIDS", "Grid"]


@dataclass(frozen=True)
class Grid:
    """``levels`` equidistant values around 0, as integers from 0 on.

    Attributes:
        name: ``int8``, ``ternary``, ...
        bits: of a code in a stream; 0 for ternary digits, which lie five to a byte.
        levels: how many values there are.
        offset: the code, or the middle of two, that stands for 0.
    """

    name: str
    bits: int
    levels: int
    offset: float

    def bytes(self, count: int) -> int:
        """Bytes of ``count`` codes in one stream."""
        return packed_bytes(count, self.bits) if self.bits else trit_bytes(count)

    def pack(self, codes: Tensor) -> Tensor:
        """int [*, m] -> uint8 [*, bytes(m)]."""
        return pack_codes(codes, self.bits) if self.bits else pack_trits(codes)

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """uint8 [*, bytes(count)] -> int32 [*, count]."""
        return unpack_codes(packed, self.bits, count) if self.bits else unpack_trits(packed, count)

    def nearest(self, values: Tensor, steps: Tensor) -> Tensor:
        """fp32 [*], steps broadcastable to it -> int32 [*]: codes of the nearest levels; a step of 0 gives any code."""
        scaled = values * torch.where(steps > 0, 1 / steps, 0.0)
        return (scaled + (self.offset + 0.5)).floor().clamp(0, self.levels - 1).to(torch.int32)

    def values(self, codes: Tensor, steps: Tensor) -> Tensor:
        """int [*], fp32 steps broadcastable to it -> fp32 [*]."""
        return (codes.to(torch.float32) - self.offset) * steps


GRIDS = {
    grid.name: grid
    for grid in (
        Grid("int8", 8, 256, 128),
        Grid("int6", 6, 64, 32),
        Grid("int4", 4, 16, 8),
        Grid("int3", 3, 8, 4),
        Grid("int2", 2, 4, 1.5),
        Grid("ternary", 0, 3, 1),
        Grid("int1", 1, 2, 0.5),
    )
}

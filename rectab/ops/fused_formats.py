"""Row formats in the layouts of torch and FBGEMM: codes from 0 on, a scale and a bias a row (:mod:`rectab.ops.fused`).

Rows that are written to be served are bit for bit what ``torch.ops.quantized.embedding_bag_{byte,4bit,2bit}_prepack``
makes of them, so the tensor goes to those operators, and to FBGEMM, as it is. While rows train their range is chosen
otherwise: it may stay as it is, so that elements that did not move are not rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops.dispatch import find_kernel, is_eager
from rectab.ops.fused import fuse, fuse_bytes, fused_row_bytes, lay_out, scale_and_bias, unfuse, unfuse_bytes
from rectab.ops.memory import filled_rows
from rectab.ops.rounding import random_fractions

__all__ = ["FusedFormat"]

_FEW_LEVELS = 4
_SHARES = (1.0, 0.85, 0.7, 0.55)
_KEPT_FROM = 0.75


@dataclass(frozen=True)
class FusedFormat:
    """``value = code * scale + bias``; what a row trains to is written with stochastic rounding.

    A range is new where the row's elements have left it, or take less than three quarters of it: then it is from the
    smallest to the largest. That of four levels is the one of the least squared error, which clips them: by the largest
    one a row of so few levels grows with every update.

    Attributes:
        bits: of a code, 8, 4 or 2; scale and bias are fp32 for 8 bits, else fp16.
        trains: True.
    """

    bits: int
    trains: bool = True

    @property
    def name(self) -> str:
        return f"fused{self.bits}"

    @property
    def _top(self) -> int:
        return 2**self.bits - 1

    @property
    def _dtype(self) -> torch.dtype:
        """Of scale and bias."""
        return torch.float32 if self.bits == 8 else torch.float16

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        # Zeros: a row keeps the range that it has, so what lies there before the first write would be seen in it.
        return {"fused": filled_rows(num_rows, int(self.row_bytes(row_dim)), dtype=torch.uint8, device=device)}

    def row_bytes(self, row_dim: int) -> float:
        return row_dim + 8 if self.bits == 8 else fused_row_bytes(row_dim, self.bits)

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        fused = tensors["fused"]
        kernel = find_kernel("fused", "gather", fused.device) if is_eager(fused, rows) else None
        if kernel is not None:
            found: Tensor = kernel(fused, rows, row_dim, self.bits)
            return found
        flat = torch.nn.functional.embedding(rows.reshape(-1), fused)
        return self._values(flat, row_dim).view(*rows.shape, row_dim)

    def _values(self, fused: Tensor, row_dim: int) -> Tensor:
        """uint8 [n, bytes of a row] -> fp32 [n, D]."""
        return unfuse_bytes(fused) if self.bits == 8 else unfuse(fused, self.bits, row_dim)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        values, fused = values.float(), tensors["fused"]
        if salt is not None and is_eager(fused, rows, values):
            kernel = find_kernel("fused", "write", fused.device)
            if kernel is not None:
                kernel(fused, rows, values, salt, self.bits)
                return
        held = fused[rows]
        if salt is not None:
            made = self._trained(values, held, random_fractions(rows, values.shape[1], salt))
        else:
            made = fuse_bytes(values) if self.bits == 8 else fuse(values, self.bits)
        # A row that is written as it was read stays what it is. Of a constant one every layout is the same.
        same = (self._values(held, values.shape[1]) == values).all(1) & (values.amax(1) > values.amin(1))
        fused[rows] = torch.where(same.unsqueeze(1), held, made)

    def _trained(self, values: Tensor, held: Tensor, random: Tensor) -> Tensor:
        scale, bias = scale_and_bias(held, self._dtype)
        choose = self._nearest_range if self._top + 1 <= _FEW_LEVELS else self._whole_range
        scale, bias = choose(values, scale, bias)
        return lay_out(self._codes(values, scale, bias, random).to(torch.uint8), scale, bias, self.bits)

    def _codes(self, values: Tensor, scale: Tensor, bias: Tensor, added: Tensor | float) -> Tensor:
        """fp32 [n, D], whole numbers."""
        steps = (values - bias.float()) / torch.where(scale == 0, 1.0, scale.float())
        return (steps + added).floor().nan_to_num(0.0).clamp(0, self._top)

    def _whole_range(self, values: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, bias) [n, 1] by which nothing is clipped; those held, where the row takes enough of their range."""
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        room = self._top * scale.float()
        fits = (low >= bias.float()) & (high <= bias.float() + room) & (high - low >= _KEPT_FROM * room)
        new_bias = _rounded_down(low, self._dtype)
        new_scale = -_rounded_down((new_bias.float() - high) / self._top, self._dtype)
        new_scale = torch.where(new_scale == 0, torch.ones_like(new_scale), new_scale)
        return torch.where(fits, scale, new_scale), torch.where(fits, bias, new_bias)

    def _nearest_range(self, values: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, bias) [n, 1] of the least squared error; those held, if none are better."""
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        middle, spread = (low + high) / 2, high - low
        error = self._squared_error(values, scale, bias).nan_to_num(torch.inf)  # what is held may not be finite
        for share in _SHARES:
            new_scale = (share * spread / self._top).to(self._dtype)
            new_bias = (middle - share * spread / 2).to(self._dtype)
            for _ in range(2):
                new_scale, new_bias = self._fitted(values, new_scale, new_bias)
                other = self._squared_error(values, new_scale, new_bias)
                better = (other < error) | ~torch.isfinite(spread)  # which the bias then says
                scale, bias = torch.where(better, new_scale, scale), torch.where(better, new_bias, bias)
                error = torch.where(better, other, error)
        return scale, bias

    def _fitted(self, values: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The best (scale, bias) for the codes that these give."""
        codes = self._codes(values, scale, bias, 0.5)
        apart, mean = codes - codes.mean(1, keepdim=True), values.mean(1, keepdim=True)
        energy = apart.square().sum(1, keepdim=True)
        slope = torch.where(energy > 0, (apart * (values - mean)).sum(1, keepdim=True) / energy, 1.0).to(self._dtype)
        return slope, (mean - slope.float() * codes.mean(1, keepdim=True)).to(self._dtype)

    def _squared_error(self, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """fp32 [n, 1]."""
        read = self._codes(values, scale, bias, 0.5) * scale.float() + bias.float()
        return (read - values).square().sum(1, keepdim=True)


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 -> the largest of ``dtype`` that is not above; what is not finite stays so."""
    nearest = values.to(dtype)
    above = nearest.float() > values
    return torch.where(above, torch.nextafter(nearest, torch.full_like(nearest, -torch.inf)), nearest)

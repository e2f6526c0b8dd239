"""Row formats of floats, which the fused kernels read and write in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops.kernels_torch import gather
from rectab.ops.memory import empty_rows
from rectab.ops.rounding import store_rows

__all__ = ["FloatFormat"]


@dataclass(frozen=True)
class FloatFormat:
    """One float an element.

    Attributes:
        name: ``fp32``, ``bf16``, ``fp16`` or ``fp64``.
        dtype: of the elements.
        trains: True.
    """

    name: str
    dtype: torch.dtype
    trains: bool = True

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {"weight": empty_rows(num_rows, row_dim, dtype=self.dtype, device=device)}

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        weight = tensors["weight"]
        return gather(weight, rows, torch.float64 if weight.dtype == torch.float64 else torch.float32)

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        weight = tensors["weight"]
        if salt is None or self.dtype == torch.float64:
            weight[rows] = values.to(weight.dtype)
        else:
            store_rows(weight, rows, values.float(), salt)

    def row_bytes(self, row_dim: int) -> float:
        return row_dim * self.dtype.itemsize

"""What every launch of a triton kernel needs: how many rows a program takes, kinds of floats, indices outside."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from rectab.ops.dispatch import holds

__all__ = ["BLOCK_ELEMENTS", "KINDS", "blocks_of", "check_inside", "in_place", "launch", "salt_tensor"]

BLOCK_ELEMENTS = 1024
"""Of a program."""

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What kernels call the floats they read and write."""


def blocks_of(row_dim: int) -> dict[str, int]:
    """Rows and columns of a program."""
    width = triton.next_power_of_2(row_dim)
    return {"BLOCK": max(1, BLOCK_ELEMENTS // width), "WIDTH": width}


def launch(kernel: Any, count: int, blocks: dict[str, int], *arguments: Any, **options: Any) -> None:
    """Programs for ``count`` rows; none for 0."""
    if count:
        kernel[(triton.cdiv(count, blocks["BLOCK"]),)](*arguments, **options, **blocks)


def check_inside(outside: Tensor, what: str) -> None:
    """Raise IndexError if a kernel has written 1 into ``outside``; on CUDA it is asserted, and nobody waits."""
    if not holds(outside == 0):
        raise IndexError(f"{what} is outside its range")


def in_place(tensor: Tensor) -> Tensor:
    """The tensor, for a kernel to write. Raises ValueError if it is not contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(f"rows and their state must be contiguous, got strides {tensor.stride()}")
    return tensor


def salt_tensor(salt: int, device: torch.device) -> Tensor:
    """int64 [1]. Triton would compile a kernel again for some values of an integer argument. It is filled on the
    device, as a copy from the host would wait for it."""
    return torch.full((1,), salt, dtype=torch.int64, device=device)

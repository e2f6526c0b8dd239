"""Stochastic rounding of fp32 values to fp16 and bf16, the same bits in every implementation.

Rounding to nearest would lose every update smaller than half a unit in the last place (1/512 of a bf16 value), and a
second moment in bf16 would never decay. The random bits are a hash of (salt, row, column), so the result depends
neither on the order of the rows nor on threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops.hashing import mix

__all__ = ["random_fractions", "round_stochastically", "store_rows"]

_SMALLEST_NORMAL_FP16 = 2.0**-14
_SUBNORMALS_PER_UNIT_FP16 = 2.0**24


def random_bits(rows: Tensor, row_dim: int, salt: int) -> Tensor:
    """int32 [n, row_dim] in ``[0, 2**16)``: one 64-bit hash for every four columns."""
    groups = (row_dim + 3) // 4
    counters = rows.long().unsqueeze(1) * groups + torch.arange(groups, device=rows.device)
    hashes = mix(counters, salt).unsqueeze(2) >> torch.arange(0, 64, 16, device=rows.device)
    return (hashes & 0xFFFF).flatten(1)[:, :row_dim].to(torch.int32)


def random_fractions(rows: Tensor, row_dim: int, salt: int) -> Tensor:
    """fp32 [n, row_dim] in [0, 1): :func:`random_bits` as what is added to a number of steps before it is cut off."""
    return random_bits(rows, row_dim, salt).float() * 2.0**-16


def round_stochastically(values: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 [*] with 16 random bits for each -> fp16 or bf16 whose expectation is ``values``."""
    bits = values.contiguous().view(torch.int32)
    if dtype == torch.bfloat16:
        return ((bits + random) & -0x10000).view(torch.float32).to(dtype)
    normal = ((bits + (random & 0x1FFF)) & -0x2000).view(torch.float32)
    scaled = values * _SUBNORMALS_PER_UNIT_FP16 + random.float() * 2.0**-16
    subnormal = scaled.floor() / _SUBNORMALS_PER_UNIT_FP16
    return torch.where(values.abs() >= _SMALLEST_NORMAL_FP16, normal, subnormal).to(dtype)


def store_rows(target: Tensor, rows: Tensor, values: Tensor, salt: int) -> None:
    """``target[rows] = values`` (fp32 [n] or [n, D]), rounding stochastically if ``target`` is fp16 or bf16."""
    if target.dtype == torch.float32:
        target[rows] = values
        return
    random = random_bits(rows, 1 if values.dim() == 1 else values.shape[1], salt).view(values.shape)
    target[rows] = round_stochastically(values, random, target.dtype)

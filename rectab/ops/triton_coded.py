"""Triton kernels that read rows of few bits: codes with a scale a row, bare codes, codes with a scale and a bias.

Bytes of a row are read one by one and widened before they are shifted, so a number may begin at any byte.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rectab.ops.triton_support import blocks_of, check_inside, launch

__all__ = ["asked", "code_at", "coded_gather", "fused_at", "fused_gather", "whole_gather"]


@triton.jit
def _byte(bytes, at, live):
    return tl.load(bytes + at, mask=live, other=0).to(tl.int32)


@triton.jit
def code_at(stream, size, column, live, BITS: tl.constexpr):
    """int32: the code of a column in a stream of ``size`` bytes (:mod:`rectab.ops.packing`); 0 bits: ternary digits.

    Codes that reach across bytes lie in whole groups of three: four of 6 bits, eight of 3. All three bytes are read.
    """
    if BITS == 0:
        digit = column % 5
        power = tl.where(digit == 0, 1, tl.where(digit == 1, 3, tl.where(digit == 2, 9, tl.where(digit == 3, 27, 81))))
        code = (((_byte(stream, column // 5, live) * power) & 255) * 3) >> 8
    elif 8 % BITS == 0:
        code = (_byte(stream, column // (8 // BITS), live) >> (column % (8 // BITS) * BITS)) & ((1 << BITS) - 1)
    else:
        tl.static_assert(24 % BITS == 0)
        first = column // (24 // BITS) * 3
        word = _byte(stream, first, live)
        word |= _byte(stream, first + 1, live & (first + 1 < size)) << 8
        word |= _byte(stream, first + 2, live & (first + 2 < size)) << 16
        code = (word >> (column % (24 // BITS) * BITS)) & ((1 << BITS) - 1)
    return code


@triton.jit
def _number(bytes, at, live, HALF: tl.constexpr):
    """fp32: the half or the single that begins at a byte."""
    word = _byte(bytes, at, live) | (_byte(bytes, at + 1, live) << 8)
    if HALF:
        number = word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        word |= (_byte(bytes, at + 2, live) << 16) | (_byte(bytes, at + 3, live) << 24)
        number = word.to(tl.float32, bitcast=True)
    return number


@triton.jit
def fused_at(row, row_bytes, column, there, live, BITS: tl.constexpr):
    """fp32 values [rows, columns], and scale and bias [rows, 1], of the rows that begin at ``row`` [rows, 1]; see
    :mod:`rectab.ops.fused`."""
    size = row_bytes - (8 if BITS == 8 else 4)
    scale = _number(row, size, there, BITS != 8)
    bias = _number(row, size + (4 if BITS == 8 else 2), there, BITS != 8)
    code = code_at(row, size, column, live, BITS)
    if BITS == 8:  # rounded once, as by the reference; with halves the product is exact
        value = (code.to(tl.float64) * scale.to(tl.float64) + bias.to(tl.float64)).to(tl.float32)
    else:
        value = code.to(tl.float32) * scale + bias
    return value, scale, bias


@triton.jit
def asked(rows, num_rows, count, outside, BLOCK: tl.constexpr):
    """Positions and rows of this program [BLOCK, 1], and which of them there are; notes rows outside the store."""
    at = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    row = tl.load(rows + at, mask=at < count, other=0)
    inside = (row >= 0) & (row < num_rows)
    tl.store(outside + at * 0, 1, mask=~inside)
    return at, row, (at < count) & inside


@triton.jit
def _gather_coded(
    codes, num_rows, row_size, row_dim, scale, offset, rows, count, out, outside,
    BITS: tl.constexpr, SIGNED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at, row, there = asked(rows, num_rows, count, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live = there & (column < row_dim)
    stream = codes + row * row_size
    if SIGNED:
        code = tl.load(stream + column, mask=live, other=0).to(tl.int32)
    else:
        code = code_at(stream, row_size, column, live, BITS)
    value = code.to(tl.float32) - offset
    value *= tl.load(scale + (row * 0 if SHARED else row), mask=there, other=0.0).to(tl.float32)
    tl.store(out + at * row_dim + column, value, mask=live)


@triton.jit
def _gather_fused(
    fused, num_rows, row_bytes, row_dim, rows, count, out, outside,
    BITS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at, row, there = asked(rows, num_rows, count, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live = there & (column < row_dim)
    value, _, _ = fused_at(fused + row * row_bytes, row_bytes, column, there, live, BITS)
    tl.store(out + at * row_dim + column, value, mask=live)


def coded_gather(codes: Tensor, scale: Tensor, rows: Tensor, row_dim: int, bits: int, offset: float) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.coded_gather`."""
    options = {"BITS": bits, "SIGNED": codes.dtype == torch.int8, "SHARED": scale.numel() == 1}
    return _gathered(_gather_coded, codes, rows, row_dim, scale.contiguous(), float(offset), **options)


def whole_gather(codes: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    """int16 codes [N, D] times a bf16 scale [N], rows int64 [*] -> fp32 [*, D]."""
    options = {"BITS": 16, "SIGNED": True, "SHARED": False}
    return _gathered(_gather_coded, codes, rows, codes.shape[1], scale.contiguous(), 0.0, **options)


def fused_gather(fused: Tensor, rows: Tensor, row_dim: int, bits: int) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.fused_gather`."""
    return _gathered(_gather_fused, fused, rows, row_dim, BITS=bits)


def _gathered(kernel: Any, held: Tensor, rows: Tensor, row_dim: int, *rest: Any, **options: Any) -> Tensor:
    """fp32 [*, row_dim] of the rows int64 [*] of ``held``; raises IndexError for one outside."""
    flat = rows.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(flat.numel(), row_dim, dtype=torch.float32, device=held.device)
    outside = torch.zeros((), dtype=torch.int32, device=held.device)
    arguments = (held.contiguous(), *held.shape, row_dim, *rest, flat, flat.numel(), out, outside)
    launch(kernel, flat.numel(), blocks_of(row_dim), *arguments, **options)
    check_inside(outside, "a row")
    return out.view(*rows.shape, row_dim)

"""Triton kernels that write updated rows of few bits, rounding stochastically (:mod:`rectab.ops.formats`).

A program takes BLOCK rows: all of their columns to choose a scale, then, place by place, the columns whose codes share
bytes, so that every byte is written once and by one thread.

A row may be given twice, with the same values (:meth:`rectab.optim.updater.RowUpdater.update`). What the rows held is
therefore copied before anything is written: both times the same is made of it.

Nothing is contracted to multiply-adds and divisions are exact, so what is written is bit for bit what the reference
writes; where a sum over the row decides (grids of few levels), up to the order of that sum.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rectab.ops.coded_formats import CodeRule
from rectab.ops.triton_coded import asked
from rectab.ops.triton_support import blocks_of, check_inside, in_place, launch, salt_tensor
from rectab.ops.triton_values import random_fractions

__all__ = ["coded_write", "extremes", "half_below", "launch_write", "over", "shared", "store_bytes", "whole"]

_KEEP, _UNCLIPPED, _NEAREST = (tl.constexpr(number) for number in range(3))
_RULES = {"held": 0, "unclipped": 1, "nearest": 2}


@triton.jit
def over(x):
    """Sum of every row [rows, 1]."""
    return tl.sum(x, axis=1)[:, None]


@triton.jit
def shared(x, number):
    """fp32: divided by one number; ``/`` would be approximate."""
    return tl.div_rn(x, tl.zeros_like(x) + number)


@triton.jit
def extremes(x, live):
    """The smallest and the largest of every row [rows, 1]; NaN of one with a NaN in it."""
    nan = tl.max((live & (x != x)).to(tl.int32), axis=1)[:, None] > 0
    low = tl.min(tl.where(live, x, float("inf")), axis=1)[:, None]
    high = tl.max(tl.where(live, x, float("-inf")), axis=1)[:, None]
    return tl.where(nan, float("nan"), low), tl.where(nan, float("nan"), high)


@triton.jit
def _largest(x, live):
    low, high = extremes(x, live)
    return tl.where(low != low, low, tl.maximum(tl.abs(low), tl.abs(high)))


@triton.jit
def half_below(x):
    """fp32: the largest half that is not above; what is not finite stays so."""
    nearest = x.to(tl.float16)
    bits = nearest.to(tl.int16, bitcast=True).to(tl.int32)
    # The half before: towards 0 for a positive one, away from it for a negative one; before 0, the smallest negative.
    lower = tl.where(bits > 0, bits - 1, tl.where((bits & 0x7FFF) == 0, -32767, bits + 1))
    lower = lower.to(tl.int16).to(tl.float16, bitcast=True)
    return tl.where(nearest.to(tl.float32) > x, lower, nearest).to(tl.float32)


@triton.jit
def _rounded_up(x, BFLOAT: tl.constexpr):
    """fp32: the smallest half, or bf16, that is not below; of numbers from 0 on."""
    if BFLOAT:
        up = ((x.to(tl.int32, bitcast=True) + 0xFFFF) & -0x10000).to(tl.float32, bitcast=True)
        up = tl.where(tl.abs(x) < float("inf"), up, x)
    else:
        up = -half_below(-x)
    return up


@triton.jit
def whole(x, low, high):
    """fp32: whole numbers from ``low`` to ``high``; ``low`` for NaN."""
    x = tl.floor(x)
    return tl.minimum(tl.maximum(tl.where(x == x, x, low), low), high)


@triton.jit
def _codes(x, scale, added, before, low, high):
    """fp32: the levels below ``x / scale + before + added``."""
    return whole(tl.div_rn(x, tl.where(scale > 0, scale, 1.0)) + before + added, low, high)


@triton.jit
def _error(x, live, scale, before, low, high):
    """fp32 [rows, 1]: squared error by the nearest levels."""
    off = (_codes(x, scale, 0.5, before, low, high) - before) * scale - x
    return over(tl.where(live, off * off, 0.0))


@triton.jit
def _better(x, live, scale, best, error, before, low, high):
    other = _error(x, live, scale, before, low, high)
    better = (other < error) | ~(tl.abs(other) < float("inf"))  # a row that is not finite gets a scale that says so
    return tl.where(better, scale, best), tl.where(better, other, error)


@triton.jit
def _nearest_scale(x, live, held, top, before, low, high):
    """See :class:`rectab.ops.coded_formats.GridFormat`."""
    largest = _rounded_up(shared(_largest(x, live), top), False)
    best, error = held, _error(x, live, held, before, low, high)
    for sixteenths in range(12 + 1):
        scale = (largest * ((16 - sixteenths) / 16.0)).to(tl.float16).to(tl.float32)
        best, error = _better(x, live, scale, best, error, before, low, high)
    steps = tl.where(live, _codes(x, best, 0.5, before, low, high) - before, 0.0)
    fitted = tl.div_rn(over(tl.where(live, x, 0.0) * steps), tl.maximum(over(steps * steps), 0.25))
    best, error = _better(x, live, fitted.to(tl.float16).to(tl.float32), best, error, before, low, high)
    return best


@triton.jit
def _write_coded(
    values, row_dim, rows, count, held, salt, codes, num_rows, row_size, scale, outside,
    top, kept_from, before, after,
    RULE: tl.constexpr, BITS: tl.constexpr, SIGNED: tl.constexpr, PLACES: tl.constexpr, BYTES: tl.constexpr,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at, row, there = asked(rows, num_rows, count, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live = there & (column < row_dim)
    low, high = before - top, before + top
    step = tl.load(held + at, mask=there, other=0.0).to(tl.float32)
    x = tl.load(values + at * row_dim + column, mask=live, other=0.0)
    if RULE == _UNCLIPPED:
        largest = _largest(x, live)
        fits = (largest <= top * step) & (largest >= kept_from * step)
        new = _rounded_up(shared(largest, top), scale.dtype.element_ty == tl.bfloat16)
        step = tl.where(fits, step, new)
    if RULE == _NEAREST:
        step = _nearest_scale(x, live, step, top, before, low, high)
    if RULE != _KEEP:
        tl.store(scale + row, step.to(scale.dtype.element_ty), mask=there)
    bits, group = tl.load(salt), tl.arange(0, GROUPS)[None, :]
    word = tl.zeros((BLOCK, GROUPS), tl.int32)
    for place in tl.static_range(PLACES):
        column = group * PLACES + place
        live = there & (column < row_dim)
        x = tl.load(values + at * row_dim + column, mask=live, other=0.0)
        random = random_fractions(row, column, row_dim, bits)
        code = (_codes(x, step, random, before, low, high) + after).to(tl.int32)
        if BITS == 0:
            word = word * 3 + tl.where(live, code, 0)
        else:
            word |= tl.where(live, code, 0) << (place * BITS)
    if SIGNED:
        tl.store(codes + row * row_size + group, word.to(codes.dtype.element_ty), mask=there & (group < row_size))
    else:
        if BITS == 0:
            word = (word * 256 + 242) // 243
        store_bytes(codes + row * row_size, group * BYTES, word, row_size, there, BYTES)


@triton.jit
def store_bytes(stream, first, word, size, there, BYTES: tl.constexpr):
    """The lowest bytes of a word each, from ``first`` on; none at or behind ``size``."""
    for byte in tl.static_range(BYTES):
        tl.store(stream + first + byte, ((word >> (8 * byte)) & 255).to(tl.uint8), mask=there & (first + byte < size))


def coded_write(tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int, rule: CodeRule) -> None:
    """Hold fp32 values [n, D] in the rows int64 [n], whose codes and scales ``tensors`` are; rounds stochastically.

    Raises IndexError for a row outside the store.
    """
    codes, scale = in_place(tensors["codes"]), in_place(tensors["scale"])
    signed = codes.dtype != torch.uint8
    places = 1 if signed else 5 if rule.bits == 0 else 8 // gcd(8, rule.bits)
    written = (codes, *codes.shape, scale)
    options = {
        "RULE": _RULES[rule.scale], "BITS": rule.bits, "SIGNED": signed, "PLACES": places,
        "BYTES": 1 if rule.bits == 0 else places * rule.bits // 8,
    }  # fmt: skip
    numbers = (float(rule.top), float(rule.kept_from), float(rule.before), float(rule.after))
    launch_write(_write_coded, rows, values, scale, salt, written, numbers, places, **options)


def launch_write(
    kernel: Any,
    rows: Tensor,
    values: Tensor,
    held: Tensor,
    salt: int,
    written: tuple[Any, ...],
    numbers: tuple[float, ...],
    places: int,
    **options: Any,
) -> None:
    """``held`` is what the rows' new scales may be chosen by: it is copied first; ``places`` columns share bytes."""
    rows, row_dim = rows.to(torch.int64).contiguous(), values.shape[1]
    outside = torch.zeros((), dtype=torch.int32, device=held.device)
    given = (values.contiguous(), row_dim, rows, rows.numel(), held[rows], salt_tensor(salt, held.device))
    blocks = {**blocks_of(row_dim), "GROUPS": triton.next_power_of_2(triton.cdiv(row_dim, places))}
    options |= {"enable_fp_fusion": False}
    launch(kernel, rows.numel(), blocks, *given, *written, outside, *numbers, **options)
    check_inside(outside, "a row")

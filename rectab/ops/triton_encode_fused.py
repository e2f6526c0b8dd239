"""Triton kernel that writes updated fused rows (:mod:`rectab.ops.fused_formats`), as :mod:`rectab.ops.triton_encode`.

Two bits: up to the order of the sums that choose a row's range.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rectab.ops.triton_coded import asked, fused_at
from rectab.ops.triton_encode import extremes, half_below, launch_write, over, shared, store_bytes, whole
from rectab.ops.triton_support import in_place
from rectab.ops.triton_values import random_fractions

__all__ = ["fused_write"]


@triton.jit
def _fused_codes(x, scale, bias, added, top):
    return whole(tl.div_rn(x - bias, tl.where(scale == 0, 1.0, scale)) + added, 0.0, top)


@triton.jit
def _whole_range(x, live, scale, bias, top, HALF: tl.constexpr):
    """See :class:`rectab.ops.fused_formats.FusedFormat`."""
    low, high = extremes(x, live)
    room = top * scale
    fits = (low >= bias) & (high <= bias + room) & (high - low >= 0.75 * room)
    new_bias = half_below(low) if HALF else low
    share = shared(new_bias - high, top)
    new_scale = -half_below(share) if HALF else -share
    new_scale = tl.where(new_scale == 0, 1.0, new_scale)
    return tl.where(fits, scale, new_scale), tl.where(fits, bias, new_bias)


@triton.jit
def _fused_error(x, live, scale, bias, top):
    off = _fused_codes(x, scale, bias, 0.5, top) * scale + bias - x
    return over(tl.where(live, off * off, 0.0))


@triton.jit
def _nearest_range(x, live, scale, bias, row_dim, top):
    """See :class:`rectab.ops.fused_formats.FusedFormat`."""
    low, high = extremes(x, live)
    middle, spread = (low + high) * 0.5, high - low
    error = _fused_error(x, live, scale, bias, top)
    error = tl.where(error == error, error, float("inf"))  # what is held may not be finite
    endless = ~(tl.abs(spread) < float("inf"))
    mean = shared(over(tl.where(live, x, 0.0)), row_dim)
    for number in tl.static_range(4):
        wide = (1.0 if number == 0 else 0.85 if number == 1 else 0.7 if number == 2 else 0.55) * spread
        new_scale = shared(wide, top).to(tl.float16).to(tl.float32)
        new_bias = (middle - wide * 0.5).to(tl.float16).to(tl.float32)
        for _ in tl.static_range(2):
            code = tl.where(live, _fused_codes(x, new_scale, new_bias, 0.5, top), 0.0)
            code_mean = shared(over(code), row_dim)
            apart = tl.where(live, code - code_mean, 0.0)
            energy = over(apart * apart)
            slope = tl.div_rn(over(apart * tl.where(live, x - mean, 0.0)), tl.where(energy > 0, energy, 1.0))
            new_scale = tl.where(energy > 0, slope, 1.0).to(tl.float16).to(tl.float32)
            new_bias = (mean - new_scale * code_mean).to(tl.float16).to(tl.float32)
            other = _fused_error(x, live, new_scale, new_bias, top)
            better = (other < error) | endless  # which the bias then says
            scale, bias = tl.where(better, new_scale, scale), tl.where(better, new_bias, bias)
            error = tl.where(better, other, error)
    return scale, bias


@triton.jit
def _store_number(stream, first, number, size, there, HALF: tl.constexpr):
    if HALF:
        store_bytes(stream, first, number.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32), size, there, 2)
    else:
        store_bytes(stream, first, number.to(tl.int32, bitcast=True), size, there, 4)


@triton.jit
def _write_fused(
    values, row_dim, rows, count, held, salt, fused, num_rows, row_bytes, outside, top,
    BITS: tl.constexpr, PLACES: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at, row, there = asked(rows, num_rows, count, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live = there & (column < row_dim)
    x = tl.load(values + at * row_dim + column, mask=live, other=0.0)
    read, scale, bias = fused_at(held + at * row_bytes, row_bytes, column, there, live, BITS)
    # A row that is written as it was read stays what it is. Of a constant one every layout is the same.
    low, high = extremes(x, live)
    written = there & ((over((live & (read != x)).to(tl.int32)) > 0) | ~(high > low))
    if BITS == 2:
        scale, bias = _nearest_range(x, live, scale, bias, row_dim, top)
    else:
        scale, bias = _whole_range(x, live, scale, bias, top, BITS != 8)
    bits, group = tl.load(salt), tl.arange(0, GROUPS)[None, :]
    word = tl.zeros((BLOCK, GROUPS), tl.int32)
    for place in tl.static_range(PLACES):
        column = group * PLACES + place
        live = written & (column < row_dim)
        x = tl.load(values + at * row_dim + column, mask=live, other=0.0)
        random = random_fractions(row, column, row_dim, bits)
        word |= tl.where(live, _fused_codes(x, scale, bias, random, top).to(tl.int32), 0) << (place * BITS)
    stream, size = fused + row * row_bytes, row_bytes - (8 if BITS == 8 else 4)
    store_bytes(stream, group, word, size, written, 1)
    behind = row * 0 + size
    _store_number(stream, behind, scale, row_bytes, written, BITS != 8)
    _store_number(stream, behind + (4 if BITS == 8 else 2), bias, row_bytes, written, BITS != 8)


def fused_write(fused: Tensor, rows: Tensor, values: Tensor, salt: int, bits: int) -> None:
    """Hold fp32 values [n, D] in the fused rows int64 [n]; rounds stochastically.

    Raises IndexError for a row outside the store.
    """
    written, top = (in_place(fused), *fused.shape), float(2**bits - 1)
    launch_write(_write_fused, rows, values, fused, salt, written, (top,), 8 // bits, BITS=bits, PLACES=8 // bits)

"""Lookups from blocks of packed bytes in triton: the table of :mod:`rectab.tables.quantized`, decoded as it is read.

A program takes BLOCK ids and all of their columns. What a block is, its code says
(:mod:`rectab.tables.quantized.codes`); the bytes of every kind are asked for under a mask of its own, so that an id
costs the loads of its own kind only.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rectab.ops.triton_support import blocks_of, launch

__all__ = ["lookup_blocks"]

_SHARED, _RARE, _FP16, _GRID, _BOOK_INT8, _BOOK_FP16 = (tl.constexpr(kind) for kind in range(6))
_TERNARY = tl.constexpr(5)  # its place in rectab.ops.grids.GRIDS


@triton.jit
def _block_of(row, blocks, num_blocks, live, HALVINGS: tl.constexpr):
    """The last block that starts at or before a row."""
    found = row * 0
    for halving in tl.static_range(HALVINGS):
        further = found + (1 << (HALVINGS - 1 - halving))
        inside = live & (further < num_blocks)
        start = tl.load(blocks + 2 * further, mask=inside, other=0).to(tl.int64)
        found = tl.where(inside & (start <= row), further, found)
    return found


@triton.jit
def _half(payload, at, live):
    """fp32: the half at a byte, odd or even."""
    low = tl.load(payload + at, mask=live, other=0).to(tl.int32)
    high = tl.load(payload + at + 1, mask=live, other=0).to(tl.int32)
    return (low | (high << 8)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _signed(payload, at, live):
    byte = tl.load(payload + at, mask=live, other=0).to(tl.int32)
    return tl.where(byte > 127, byte - 256, byte).to(tl.float32)


@triton.jit
def _bits(payload, size, stream, place, bits, live):
    """int32: the code at ``place`` of a stream of ``bits`` bits each, at most 16: it lies in three bytes."""
    bit = place * bits
    first = stream + bit // 8
    window = tl.load(payload + first, mask=live, other=0).to(tl.int32)
    window |= tl.load(payload + first + 1, mask=live & (first + 1 < size), other=0).to(tl.int32) << 8
    window |= tl.load(payload + first + 2, mask=live & (first + 2 < size), other=0).to(tl.int32) << 16
    return (window >> (bit % 8).to(tl.int32)) & ((1 << bits) - 1)


@triton.jit
def _from_grid(payload, size, base, code, local, num_ids, column, row_dim, live):
    grid, steps = (code >> 4) & 7, (code >> 7) & 3
    bits = tl.where(grid == 0, 8, tl.where(grid == 1, 6, tl.where(grid == 6, 1, 6 - grid)))
    offset = tl.where(grid == 4, 1.5, tl.where(grid == 5, 1.0, tl.where(grid == 6, 0.5, 0.0)))
    offset = tl.where(grid < 4, (1 << (bits - 1)).to(tl.float32), offset)
    stream = base + 2 * tl.where(steps == 0, 1, tl.where(steps == 1, row_dim, num_ids))
    place = local * row_dim + column
    plain = _bits(payload, size, stream, place, bits, live & (grid != _TERNARY))
    trits = live & (grid == _TERNARY)
    digit = place % 5
    power = tl.where(digit == 0, 1, tl.where(digit == 1, 3, tl.where(digit == 2, 9, tl.where(digit == 3, 27, 81))))
    byte = tl.load(payload + stream + place // 5, mask=trits, other=0).to(tl.int32)
    value = tl.where(trits, (((byte * power.to(tl.int32)) & 255) * 3) >> 8, plain).to(tl.float32)
    step = _half(payload, base + 2 * tl.where(steps == 0, 0, tl.where(steps == 1, column, local)), live)
    return (value - offset) * step


@triton.jit
def _from_books(payload, size, base, code, local, column, row_dim, live, int8):
    bits, sub_dim = (code >> 4) & 15, (code >> 8) & 127
    sub_dim = tl.where(sub_dim == 0, row_dim, sub_dim)
    parts, part = (row_dim + sub_dim - 1) // sub_dim, column // sub_dim
    num_codes = 1 << bits
    entries = num_codes * row_dim
    stream = base + tl.where(int8, 2 + entries, 2 * entries)
    chosen = _bits(payload, size, stream, local * parts + part, bits, live)
    first = part * sub_dim
    entry = num_codes * first + chosen * tl.minimum(sub_dim, row_dim - first) + column - first
    scaled = _signed(payload, base + 2 + entry, live & int8) * _half(payload, base + 0 * entry, live & int8)
    return tl.where(int8, scaled, _half(payload, base + 2 * entry, live & ~int8))


@triton.jit
def _lookup(
    ids, vocabulary, ranges, blocks, codes, payload, size, num_blocks, num_rows, row_dim, count, out, outside,
    HALVINGS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    column = tl.arange(0, WIDTH).to(tl.int64)[None, :]
    id = tl.load(ids + at, mask=here, other=0)
    own = tl.load(vocabulary + at, mask=here, other=0)
    first = tl.load(ranges + 2 * own, mask=here, other=0).to(tl.int64)
    wrong = here & ((id < 0) | (id >= tl.load(ranges + 2 * own + 1, mask=here, other=0)))
    tl.store(outside + tl.zeros_like(at), 1, mask=wrong)
    row = first + tl.where(wrong, 0, id)
    block = _block_of(row, blocks, num_blocks, here, HALVINGS)
    rare = (tl.load(codes + block, mask=here, other=0) & 15) == _RARE
    row = tl.where(rare, first, row)  # the row of id 0, which is not rare
    block = tl.where(rare, _block_of(row, blocks, num_blocks, here & rare, HALVINGS), block)
    start = tl.load(blocks + 2 * block, mask=here, other=0).to(tl.int64)
    base = tl.load(blocks + 2 * block + 1, mask=here, other=0).to(tl.int64)[:, None]
    end = tl.load(blocks + 2 * block + 2, mask=here & (block + 1 < num_blocks), other=0).to(tl.int64)
    num_ids = (tl.where(block + 1 < num_blocks, end, tl.load(num_rows)) - start)[:, None]
    local = (row - start)[:, None]
    code = tl.load(codes + block, mask=here, other=0).to(tl.int32)[:, None]
    kind = code & 15
    live = here[:, None] & (column < row_dim)
    halves = live & (kind == _FP16)
    value = _half(payload, base + 2 * (local * row_dim + column), halves)
    shared = live & (kind == _SHARED)
    mean = _signed(payload, base + 2 + column, shared) * _half(payload, base + 0 * column, shared)
    value = tl.where(shared, mean, value)
    grid = live & (kind == _GRID)
    value = tl.where(grid, _from_grid(payload, size, base, code, local, num_ids, column, row_dim, grid), value)
    books = live & ((kind == _BOOK_INT8) | (kind == _BOOK_FP16))
    of_books = _from_books(payload, size, base, code, local, column, row_dim, books, kind == _BOOK_INT8)
    tl.store(out + at[:, None] * row_dim + column, tl.where(books, of_books, value), mask=live)


def lookup_blocks(
    ids: Tensor, vocabulary: Tensor, ranges: Tensor, blocks: Tensor, codes: Tensor, payload: Tensor, row_dim: int
) -> tuple[Tensor, Tensor]:
    """Vectors of ids.

    Args:
        ids, vocabulary: int64 [n].
        ranges, blocks, codes, payload: buffers of :class:`rectab.tables.quantized.table.QuantizedTable`.
        row_dim: D.

    Returns:
        fp32 [n, D], and int32 [], not 0 if an id is outside its vocabulary.
    """
    out = torch.empty(ids.numel(), row_dim, dtype=torch.float32, device=ids.device)
    outside = torch.zeros((), dtype=torch.int32, device=ids.device)
    num_rows = ranges[-1].sum(dtype=torch.int64)  # of the last vocabulary, the first and how many
    held = (ranges, blocks, codes, payload, payload.numel(), codes.numel(), num_rows)
    arguments = (ids, vocabulary, *held, row_dim, ids.numel(), out, outside)
    launch(_lookup, ids.numel(), blocks_of(row_dim), *arguments, HALVINGS=len(codes).bit_length())
    return out, outside

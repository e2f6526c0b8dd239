"""Triton kernels that read rows, sum gradients and update rows. Called through :mod:`rectab.ops.kernels_triton`.

A program takes ``BLOCK`` rows and all of their columns (``WIDTH``, the next power of two). No program writes a row of
another, and sums run in a fixed order, so results are deterministic. Updates pass over rows below 0, which are none.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rectab.ops.triton_values import hash_row, rounded


@triton.jit
def address(ids, repeat, salt, first_row, num_rows, period, out, outside, total, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < total
    value = tl.load(ids + at // repeat, mask=live, other=0)
    parameter = at % period
    n = tl.load(num_rows + parameter, mask=live, other=1)
    hashed = hash_row(value, tl.load(salt + parameter, mask=live, other=0), tl.abs(n))
    wrong = live & (n < 0) & ((value < 0) | (value >= -n))
    tl.store(outside + tl.zeros_like(at), 1, mask=wrong)
    row = tl.load(first_row + parameter, mask=live, other=0) + tl.where(n > 0, hashed, value)
    tl.store(out + at, row, mask=live)


@triton.jit
def gather(weight, num_rows, row_dim, rows, count, out, outside, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    row = tl.load(rows + at, mask=at < count, other=0)
    inside = (row >= 0) & (row < num_rows)
    tl.store(outside + tl.zeros_like(at), 1, mask=~inside)
    live = ((at < count) & inside)[:, None] & (column < row_dim)
    values = tl.load(weight + row[:, None] * row_dim + column, mask=live)
    tl.store(out + at[:, None] * row_dim + column, values, mask=live)


@triton.jit
def segment_sum(
    values, row_dim, starts, weights, out, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    """One program a segment: sum of the values ``starts[s]:starts[s + 1]``, BLOCK rows at a time."""
    segment = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(starts + segment), tl.load(starts + segment + 1)
    column = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    while begin < end:
        at = begin + tl.arange(0, BLOCK)
        live = (at < end)[:, None] & (column < row_dim)[None, :]
        block = tl.load(values + at[:, None] * row_dim + column[None, :], mask=live, other=0.0).to(tl.float32)
        if WEIGHTED:
            block *= tl.load(weights + at, mask=at < end, other=0.0)[:, None]
        total += tl.sum(block, axis=0)
        begin += BLOCK
    tl.store(out + segment * row_dim + column, total, mask=column < row_dim)


@triton.jit
def sum_pieces(
    values, row_dim, order, begins, targets, count, sums, partial,
    ORDERED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums of pieces of sorted values, ``begins[p]:begins[p + 1]``, into the rows of ``sums`` that ``targets`` names,
    of ``partial`` where that is below 0. A program takes BLOCK pieces side by side, a value of each at a time."""
    # All in two dimensions: in a loop, triton 3.6 gives a load of one a mask of another layout, and refuses it.
    piece = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    begin = tl.load(begins + piece, mask=piece < count, other=0)
    length = tl.load(begins + piece + 1, mask=piece < count, other=0) - begin
    target = tl.load(targets + piece, mask=length > 0, other=0)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    most = tl.max(tl.max(length, axis=1), axis=0).to(tl.int32)
    for done in range(most):
        at = begin + done
        position = tl.load(order + at, mask=done < length, other=0) if ORDERED else at
        live = (done < length) & (column < row_dim)
        total += tl.load(values + position * row_dim + column, mask=live, other=0.0).to(tl.float32)
    live = (length > 0) & (column < row_dim)
    tl.store(sums + target * row_dim + column, total, mask=live & (target >= 0))
    tl.store(partial + (-1 - target) * row_dim + column, total, mask=live & (target < 0))


@triton.jit
def _bag_of(vectors, row_dim, offsets, WIDTH: tl.constexpr):
    """Of this program's bag: its first value, the one behind its last, all columns, its vector."""
    bag = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)[None, :]
    vector = tl.load(vectors + bag * row_dim + column, mask=column < row_dim, other=0.0).to(tl.float32)
    return tl.load(offsets + bag), tl.load(offsets + bag + 1), column, vector


@triton.jit
def spread_bags(
    vectors, row_dim, offsets, weights, out, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    """One program a bag: every value of it gets the bag's vector, times the value's weight."""
    begin, end, column, vector = _bag_of(vectors, row_dim, offsets, WIDTH)
    while begin < end:
        at = begin + tl.arange(0, BLOCK)
        block = tl.broadcast_to(vector, (BLOCK, WIDTH))
        if WEIGHTED:
            block *= tl.load(weights + at, mask=at < end, other=0.0)[:, None]
        tl.store(out + at[:, None] * row_dim + column, block, mask=(at < end)[:, None] & (column < row_dim))
        begin += BLOCK


@triton.jit
def segment_dot(vectors, row_dim, offsets, values, out, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """One program a bag: the product of every value of it with the bag's vector."""
    begin, end, column, vector = _bag_of(vectors, row_dim, offsets, WIDTH)
    while begin < end:
        at = begin + tl.arange(0, BLOCK)
        live = (at < end)[:, None] & (column < row_dim)
        block = tl.load(values + at[:, None] * row_dim + column, mask=live, other=0.0).to(tl.float32)
        tl.store(out + at, tl.sum(block * vector, axis=1), mask=at < end)
        begin += BLOCK


@triton.jit
def _decay_of(decay, shares, row, live, SHARED: tl.constexpr):
    # One return: the compiler, other than its interpreter, reads on behind an earlier one, and the types would differ.
    return decay if SHARED else decay * tl.load(shares + row, mask=live, other=0.0)[:, None]


@triton.jit
def sgd(
    weight, row_dim, rows, count, gradients, shares, lr, decay, salt,
    SHARED: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    row = tl.load(rows + at, mask=at < count, other=-1)
    there = row >= 0
    live = there[:, None] & (column < row_dim)
    place = row[:, None] * row_dim + column
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32)
    g = tl.load(gradients + at[:, None] * row_dim + column, mask=live, other=0.0)
    w -= lr * (g + _decay_of(decay, shares, row, there, SHARED) * w)
    bits = tl.load(salt)
    tl.store(weight + place, rounded(w, row[:, None], column, row_dim, bits, KIND), mask=live)


@triton.jit
def adagrad(
    weight, square, row_dim, rows, count, gradients, shares, lr, decay, salt, eps,
    PER_ROW: tl.constexpr, SHARED: tl.constexpr, KIND: tl.constexpr, STATE_KIND: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    row = tl.load(rows + at, mask=at < count, other=-1)
    there = row >= 0
    live = there[:, None] & (column < row_dim)
    place = row[:, None] * row_dim + column
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32)
    g = tl.load(gradients + at[:, None] * row_dim + column, mask=live, other=0.0)
    g += _decay_of(decay, shares, row, there, SHARED) * w
    bits = tl.load(salt)
    if PER_ROW:
        s = tl.load(square + row, mask=there, other=0.0).to(tl.float32) + tl.sum(g * g, axis=1) / row_dim
        tl.store(square + row, rounded(s, row, row * 0, 1, bits + 1, STATE_KIND), mask=there)
        w -= lr * g / (tl.sqrt(s) + eps)[:, None]
    else:
        s = tl.load(square + place, mask=live, other=0.0).to(tl.float32) + g * g
        tl.store(square + place, rounded(s, row[:, None], column, row_dim, bits + 1, STATE_KIND), mask=live)
        w -= tl.where(live, lr * g / (tl.sqrt(s) + eps), 0.0)
    tl.store(weight + place, rounded(w, row[:, None], column, row_dim, bits, KIND), mask=live)


@triton.jit
def adam(
    weight, moment, square, steps, row_dim, rows, count, gradients, shares, lr, decay, salt,
    step, beta_1, beta_2, eps, corrections, latest,
    OWN_STEPS: tl.constexpr, SHARED: tl.constexpr, KIND: tl.constexpr, STATE_KIND: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    row = tl.load(rows + at, mask=at < count, other=-1)
    there = row >= 0
    live = there[:, None] & (column < row_dim)
    place = row[:, None] * row_dim + column
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32)
    g = tl.load(gradients + at[:, None] * row_dim + column, mask=live, other=0.0)
    g += _decay_of(decay, shares, row, there, SHARED) * w
    m = beta_1 * tl.load(moment + place, mask=live, other=0.0).to(tl.float32) + (1.0 - beta_1) * g
    v = beta_2 * tl.load(square + place, mask=live, other=0.0).to(tl.float32) + (1.0 - beta_2) * g * g
    now = row * 0 + step
    if OWN_STEPS:
        now = tl.load(steps + row, mask=there, other=0).to(tl.int64) + 1
        tl.store(steps + row, now.to(tl.int32), mask=there)
    now = tl.minimum(now, latest)
    first = tl.load(corrections + now)[:, None]
    second = tl.load(corrections + latest + 1 + now)[:, None]
    w -= lr * (m / first) / (tl.sqrt(v / second) + eps)
    bits = tl.load(salt)
    tl.store(moment + place, rounded(m, row[:, None], column, row_dim, bits + 1, STATE_KIND), mask=live)
    tl.store(square + place, rounded(v, row[:, None], column, row_dim, bits + 2, STATE_KIND), mask=live)
    tl.store(weight + place, rounded(w, row[:, None], column, row_dim, bits, KIND), mask=live)

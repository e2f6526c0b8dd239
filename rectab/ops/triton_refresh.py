"""Triton kernels that replay the steps a row was away from. Called through :mod:`rectab.ops.kernels_triton`.

A row may be asked for many times. The first program that says so in ``seen`` replays it, so nobody sorts the rows and
the host waits for nothing; what is written does not depend on who it is. All is in two dimensions, rows by columns: in
a loop, triton 3.6 gives a load of one a mask of another layout, and refuses it.
"""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from rectab.ops.triton_values import rounded

__all__ = ["adagrad", "adam", "sgd"]


@triton.jit
def _behind(rows, count, seen, num_rows, now, outside, BLOCK: tl.constexpr):
    """Rows of this program, the steps each has had, and the steps it missed: 0 of those that another one replays."""
    at = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    row = tl.load(rows + at, mask=at < count, other=-1)
    there = (row >= 0) & (row < num_rows)
    tl.store(outside + at * 0, 1, mask=(row < -1) | (row >= num_rows))
    had = tl.atomic_xchg(seen + row, (at * 0 + now).to(tl.int32), mask=there)
    had = tl.where(there, had, now).to(tl.int32)
    return row, had, tl.maximum(now - had, 0)


@triton.jit
def _most(left):
    return tl.max(tl.max(left, axis=1), axis=0)


@triton.jit
def _portion(done, gap, max_replay):
    """Steps to take at once after ``done`` of ``gap``: as :func:`rectab.ops.replay.chunks_of`."""
    long = tl.minimum(gap - done, tl.maximum(done // 4, 2))
    return tl.maximum(tl.where((max_replay < 0) | (done < max_replay), 1, long), 1)


@triton.jit
def _rate(lr_sums, start, length, active):
    """Sum of the learning rates of a portion of steps."""
    end = tl.load(lr_sums + start + length, mask=active, other=0.0)
    return (end - tl.load(lr_sums + start, mask=active, other=0.0)).to(tl.float32)


@triton.jit
def _decayed(rate):
    """What many small steps of together ``rate`` leave: exp(-rate) to second order, and never below 0."""
    return 1.0 / (1.0 + rate * (1.0 + 0.5 * rate))


@triton.jit
def sgd(
    weight, seen, num_rows, row_dim, rows, count, outside, log_kept, now, salt,
    KIND: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, had, gap = _behind(rows, count, seen, num_rows, now, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live, place = (gap > 0) & (column < row_dim), row * row_dim + column
    kept = tl.load(log_kept + now) - tl.load(log_kept + had, mask=gap > 0, other=0.0)
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32) * tl.exp(kept).to(tl.float32)
    tl.store(weight + place, rounded(w, row, column, row_dim, tl.load(salt), KIND), mask=live)


@triton.jit
def adagrad(
    weight, square, seen, num_rows, row_dim, rows, count, outside, lr_sums, now, salt, decay, max_replay, eps,
    PER_ROW: tl.constexpr, KIND: tl.constexpr, STATE_KIND: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, had, gap = _behind(rows, count, seen, num_rows, now, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live, place = (gap > 0) & (column < row_dim), row * row_dim + column
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32)
    # A row's one sum is read and written in its first column, and stands in all of them between.
    own = live & (column == 0) if PER_ROW else live
    square_place = row + column * 0 if PER_ROW else place
    s = tl.load(square + square_place, mask=live, other=0.0).to(tl.float32)
    done = gap * 0
    while _most(gap - done) > 0:
        length, active = _portion(done, gap, max_replay), done < gap
        rate = _rate(lr_sums, had + done, length, active)
        steps = length.to(tl.float32)
        squared = (decay * w) * (decay * w)
        if PER_ROW:
            squared = squared * 0.0 + (tl.sum(squared, axis=1) / row_dim)[:, None]
        grown = steps * squared
        rates = rate * decay / (tl.sqrt(s + grown * (steps + 1.0) / (2.0 * steps)) + eps)
        w = tl.where(active, w * tl.where(length == 1, 1.0 - rates, _decayed(rates)), w)
        s = tl.where(active, s + grown, s)
        done = tl.where(active, done + length, done)
    bits = tl.load(salt)
    if PER_ROW:
        tl.store(square + square_place, rounded(s, row, column * 0, 1, bits + 1, STATE_KIND), mask=own)
    else:
        tl.store(square + square_place, rounded(s, row, column, row_dim, bits + 1, STATE_KIND), mask=own)
    tl.store(weight + place, rounded(w, row, column, row_dim, bits, KIND), mask=live)


@triton.jit
def adam(
    weight, moment, square, seen, num_rows, row_dim, rows, count, outside, lr_sums, now, salt, decay, max_replay,
    beta_1, beta_2, log_beta_1, log_beta_2, eps, corrections, latest,
    KIND: tl.constexpr, STATE_KIND: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, had, gap = _behind(rows, count, seen, num_rows, now, outside, BLOCK)
    column = tl.arange(0, WIDTH)[None, :]
    live, place = (gap > 0) & (column < row_dim), row * row_dim + column
    w = tl.load(weight + place, mask=live, other=0.0).to(tl.float32)
    m = tl.load(moment + place, mask=live, other=0.0).to(tl.float32)
    v = tl.load(square + place, mask=live, other=0.0).to(tl.float32)
    done = gap * 0
    while _most(gap - done) > 0:
        length, active = _portion(done, gap, max_replay), done < gap
        rate, steps = _rate(lr_sums, had + done, length, active), length.to(tl.float32)
        one_step = length == 1
        middle = tl.minimum(had + done + (length + 1) // 2, latest)
        first = tl.load(corrections + middle, mask=active, other=1.0)
        second = tl.load(corrections + latest + 1 + middle, mask=active, other=1.0)
        kept_1, kept_2 = tl.exp(steps * log_beta_1), tl.exp(steps * log_beta_2)
        g = decay * w
        v_next = tl.where(one_step, beta_2 * v + (1.0 - beta_2) * g * g, kept_2 * v + (1.0 - kept_2) * g * g)
        v_felt = tl.where(one_step, v_next, 0.5 * (v + v_next))
        scale = rate / first / (tl.sqrt(v_felt / second) + eps)
        m_one = beta_1 * m + (1.0 - beta_1) * g
        left = (m - g) * (beta_1 * (1.0 - kept_1) / (1.0 - beta_1)) / steps
        w_next = tl.where(one_step, w - scale * m_one, w * _decayed(scale * decay) - scale * left)
        m_next = tl.where(one_step, m_one, kept_1 * m + (1.0 - kept_1) * decay * w_next)
        w, m, v = tl.where(active, w_next, w), tl.where(active, m_next, m), tl.where(active, v_next, v)
        done = tl.where(active, done + length, done)
    bits = tl.load(salt)
    tl.store(moment + place, rounded(m, row, column, row_dim, bits + 1, STATE_KIND), mask=live)
    tl.store(square + place, rounded(v, row, column, row_dim, bits + 2, STATE_KIND), mask=live)
    tl.store(weight + place, rounded(w, row, column, row_dim, bits, KIND), mask=live)

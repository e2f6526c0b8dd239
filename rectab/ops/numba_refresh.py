"""Numba kernels that replay the steps a row was away from. Called through :mod:`rectab.ops.kernels_numba`.

A thread takes the rows that it owns and that are behind; a row is up to date once its first occurrence is done.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_lanes import load_lanes, read_block, scratch, store_row, write_block
from rectab.ops.numba_values import owner_of, spread
from rectab.ops.numba_vectors import LANES, splat, sqrt_lanes, sum_lanes


@njit(inline="always")
def next_behind(i, rows, thread, threads, seen, now, outside):
    """First position from ``i`` on whose row this thread owns and is behind; ``rows.size`` if there is none."""
    while i < rows.size:
        row = rows[i]
        if row < 0 or row >= seen.size:
            outside[1] = row
            outside[0] = 1
            return rows.size
        if owner_of(spread(row), threads) == thread and seen[row] < now:
            return i
        i += 1
    return i


@njit(inline="always")
def portion(done, gap, max_replay):
    """Steps to take at once after ``done`` of ``gap``: as :func:`rectab.ops.replay.chunks_of`."""
    if max_replay < 0 or done < max_replay:
        return 1
    return min(gap - done, max(2, done // 4))


@njit(inline="always")
def decayed(rate):
    """What many small steps of together ``rate`` leave: exp(-rate) to second order, and never below 0."""
    return np.float32(1.0) / (np.float32(1.0) + rate * (np.float32(1.0) + np.float32(0.5) * rate))


@compiled
def _sgd(thread, threads, tensors, seen, rows, outside, replay, log_kept, salt):
    (weight,) = tensors
    now = replay[0]
    w = scratch(weight.shape[1])
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row = rows[i]
        kept = np.float32(math.exp(log_kept[now] - log_kept[seen[row]]))
        for j in range(0, w.size, LANES):
            write_block(w, j, load_lanes(weight, row, j) * kept)
        store_row(weight, row, w, salt)
        seen[row] = now
        i = next_behind(i + 1, rows, thread, threads, seen, now, outside)


@parallel
def sgd(threads, tensors, seen, rows, outside, replay, log_kept, salt):
    for thread in prange(threads):
        _sgd(thread, threads, tensors, seen, rows, outside, replay, log_kept, salt)


@njit(inline="always")
def _replay_adagrad(w, s, row_dim, per_row, length, lr_sum, decay, eps):
    n = np.float32(length)
    middle = (n + np.float32(1.0)) / (np.float32(2.0) * n)
    scale = np.float32(lr_sum) * decay
    if per_row:
        total = splat(np.float32(0.0))
        for j in range(0, w.size, LANES):
            total = total + read_block(w, j) * read_block(w, j)
        grown = n * decay * decay * sum_lanes(total) / np.float32(row_dim)
        rate = scale / (np.float32(math.sqrt(s[0] + grown * middle)) + eps)
        kept = np.float32(1.0) - rate if length == 1 else decayed(rate)
        for j in range(0, w.size, LANES):
            write_block(w, j, read_block(w, j) * kept)
        s[0] += grown
    else:
        for j in range(0, w.size, LANES):
            old, before = read_block(w, j), read_block(s, j)
            growth = n * (decay * old) * (decay * old)
            rates = scale / (sqrt_lanes(before + growth * middle) + eps)
            write_block(w, j, old * (np.float32(1.0) - rates if length == 1 else decayed(rates)))
            write_block(s, j, before + growth)


@compiled
def _adagrad(thread, threads, tensors, seen, rows, outside, replay, lr_sums, eps, salt):
    weight, square = tensors
    now, decay, max_replay = replay
    row_dim, per_row = weight.shape[1], square.shape[1] == 1
    w = scratch(weight.shape[1])
    s = scratch(square.shape[1])
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row, start = rows[i], np.int64(seen[rows[i]])
        for j in range(0, w.size, LANES):
            write_block(w, j, load_lanes(weight, row, j))
        for j in range(0, s.size, LANES):
            write_block(s, j, load_lanes(square, row, j))
        while start < now:
            length = portion(start - seen[row], now - seen[row], max_replay)
            _replay_adagrad(w, s, row_dim, per_row, length, lr_sums[start + length] - lr_sums[start], decay, eps)
            start += length
        store_row(square, row, s, salt + 1)
        store_row(weight, row, w, salt)
        seen[row] = now
        i = next_behind(i + 1, rows, thread, threads, seen, now, outside)


@parallel
def adagrad(threads, tensors, seen, rows, outside, replay, lr_sums, eps, salt):
    for thread in prange(threads):
        _adagrad(thread, threads, tensors, seen, rows, outside, replay, lr_sums, eps, salt)


@njit(inline="always")
def _replay_adam_step(w, m, v, rate, root, decay, options):
    beta_1, beta_2, eps = options
    one = np.float32(1.0)
    for j in range(0, w.size, LANES):
        old = read_block(w, j)
        g = decay * old
        mean = beta_1 * read_block(m, j) + (one - beta_1) * g
        mean_square = beta_2 * read_block(v, j) + (one - beta_2) * g * g
        write_block(m, j, mean)
        write_block(v, j, mean_square)
        write_block(w, j, old - rate * mean / (sqrt_lanes(mean_square) * root + eps))


@njit(inline="always")
def _replay_adam_portion(w, m, v, length, rate, root, decay, options):
    beta_1, beta_2, eps = options
    one = np.float32(1.0)
    kept_1, kept_2 = beta_1 ** np.float32(length), beta_2 ** np.float32(length)
    lag = beta_1 * (one - kept_1) / ((one - beta_1) * np.float32(length))
    for j in range(0, w.size, LANES):
        old, mean, before = read_block(w, j), read_block(m, j), read_block(v, j)
        g = decay * old
        later = kept_2 * before + (one - kept_2) * g * g
        scale = rate / (sqrt_lanes(np.float32(0.5) * (before + later)) * root + eps)
        moved = old * decayed(scale * decay) - scale * lag * (mean - g)
        write_block(w, j, moved)
        write_block(m, j, kept_1 * mean + (one - kept_1) * decay * moved)
        write_block(v, j, later)


@compiled
def _adam(thread, threads, tensors, seen, rows, outside, replay, lr_sums, options, corrections, salt):
    weight, moment, square = tensors
    now, decay, max_replay = replay
    latest = corrections.shape[1] - 1
    w = scratch(weight.shape[1])
    m = scratch(weight.shape[1])
    v = scratch(weight.shape[1])
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row, start = rows[i], np.int64(seen[rows[i]])
        for j in range(0, w.size, LANES):
            write_block(w, j, load_lanes(weight, row, j))
            write_block(m, j, load_lanes(moment, row, j))
            write_block(v, j, load_lanes(square, row, j))
        while start < now:
            length = portion(start - seen[row], now - seen[row], max_replay)
            step = min(start + (length + 1) // 2, latest)
            rate = np.float32(lr_sums[start + length] - lr_sums[start]) / corrections[0, step]
            root = np.float32(1.0) / np.float32(math.sqrt(corrections[1, step]))
            if length == 1:
                _replay_adam_step(w, m, v, rate, root, decay, options)
            else:
                _replay_adam_portion(w, m, v, length, rate, root, decay, options)
            start += length
        store_row(moment, row, m, salt + 1)
        store_row(square, row, v, salt + 2)
        store_row(weight, row, w, salt)
        seen[row] = now
        i = next_behind(i + 1, rows, thread, threads, seen, now, outside)


@parallel
def adam(threads, tensors, seen, rows, outside, replay, lr_sums, options, corrections, salt):
    for thread in prange(threads):
        _adam(thread, threads, tensors, seen, rows, outside, replay, lr_sums, options, corrections, salt)

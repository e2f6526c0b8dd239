"""Numba kernels that replay the steps a row was away from. Called through :mod:`rectab.ops.kernels_numba`.

A thread takes the rows that it owns and that are behind; a row is up to date once its first occurrence is done.
"""

# Kernels have no type hints: numba infers them.
# mypy: allow-untyped-defs

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from rectab.ops.numba_support import compiled, parallel
from rectab.ops.numba_values import load, owner_of, spread, store_row


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
    w = np.empty(weight.shape[1], dtype=np.float32)
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row = rows[i]
        kept = np.float32(math.exp(log_kept[now] - log_kept[seen[row]]))
        for j in range(w.size):
            w[j] = load(weight, row, j) * kept
        store_row(weight, row, w, salt)
        seen[row] = now
        i = next_behind(i + 1, rows, thread, threads, seen, now, outside)


@parallel
def sgd(threads, tensors, seen, rows, outside, replay, log_kept, salt):
    for thread in prange(threads):
        _sgd(thread, threads, tensors, seen, rows, outside, replay, log_kept, salt)


@njit(inline="always")
def _replay_adagrad(w, s, per_row, length, lr_sum, decay, eps):
    n = np.float32(length)
    middle = (n + np.float32(1.0)) / (np.float32(2.0) * n)
    scale = np.float32(lr_sum) * decay
    if per_row:
        total = np.float32(0.0)
        for j in range(w.size):
            total += w[j] * w[j]
        grown = n * decay * decay * total / np.float32(w.size)
        rate = scale / (np.float32(math.sqrt(s[0] + grown * middle)) + eps)
        kept = np.float32(1.0) - rate if length == 1 else decayed(rate)
        for j in range(w.size):
            w[j] *= kept
        s[0] += grown
    else:
        for j in range(w.size):
            grown = n * (decay * w[j]) * (decay * w[j])
            rate = scale / (np.float32(math.sqrt(s[j] + grown * middle)) + eps)
            w[j] *= np.float32(1.0) - rate if length == 1 else decayed(rate)
            s[j] += grown


@compiled
def _adagrad(thread, threads, tensors, seen, rows, outside, replay, lr_sums, eps, salt):
    weight, square = tensors
    now, decay, max_replay = replay
    per_row = square.shape[1] == 1
    w = np.empty(weight.shape[1], dtype=np.float32)
    s = np.empty(square.shape[1], dtype=np.float32)
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row, start = rows[i], np.int64(seen[rows[i]])
        for j in range(w.size):
            w[j] = load(weight, row, j)
        for j in range(s.size):
            s[j] = load(square, row, j)
        while start < now:
            length = portion(start - seen[row], now - seen[row], max_replay)
            _replay_adagrad(w, s, per_row, length, lr_sums[start + length] - lr_sums[start], decay, eps)
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
    for j in range(w.size):
        g = decay * w[j]
        m[j] = beta_1 * m[j] + (one - beta_1) * g
        v[j] = beta_2 * v[j] + (one - beta_2) * g * g
        w[j] -= rate * m[j] / (np.float32(math.sqrt(v[j])) * root + eps)


@njit(inline="always")
def _replay_adam_portion(w, m, v, length, rate, root, decay, options):
    beta_1, beta_2, eps = options
    one = np.float32(1.0)
    kept_1, kept_2 = beta_1 ** np.float32(length), beta_2 ** np.float32(length)
    lag = beta_1 * (one - kept_1) / ((one - beta_1) * np.float32(length))
    for j in range(w.size):
        g = decay * w[j]
        later = kept_2 * v[j] + (one - kept_2) * g * g
        scale = rate / (np.float32(math.sqrt(np.float32(0.5) * (v[j] + later))) * root + eps)
        w[j] = w[j] * decayed(scale * decay) - scale * lag * (m[j] - g)
        m[j] = kept_1 * m[j] + (one - kept_1) * decay * w[j]
        v[j] = later


@compiled
def _adam(thread, threads, tensors, seen, rows, outside, replay, lr_sums, options, corrections, salt):
    weight, moment, square = tensors
    now, decay, max_replay = replay
    latest = corrections.shape[1] - 1
    w = np.empty(weight.shape[1], dtype=np.float32)
    m = np.empty(weight.shape[1], dtype=np.float32)
    v = np.empty(weight.shape[1], dtype=np.float32)
    i = next_behind(0, rows, thread, threads, seen, now, outside)
    while i < rows.size:
        row, start = rows[i], np.int64(seen[rows[i]])
        for j in range(w.size):
            w[j] = load(weight, row, j)
            m[j] = load(moment, row, j)
            v[j] = load(square, row, j)
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

"""Numba kernels that update distinct rows by one step. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them.
# mypy: allow-untyped-defs

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from rectab.ops.numba_support import compiled, parallel
from rectab.ops.numba_values import load, prefetch, store_row

_AHEAD = 8


@njit(inline="always")
def share_of(decay, shares, row):
    """The decay that a row feels; ``shares`` is empty where all feel the same."""
    return decay if shares.size == 0 else decay * shares[row]


@compiled
def _sgd(thread, threads, weight, rows, gradients, shares, lr, decay, salt):
    w = np.empty(weight.shape[1], dtype=np.float32)
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        for j in range(w.size):
            old = load(weight, row, j)
            w[j] = old - lr * (gradients[i, j] + row_decay * old)
        store_row(weight, row, w, salt)


@parallel
def sgd(threads, weight, rows, gradients, shares, lr, decay, salt):
    for thread in prange(threads):
        _sgd(thread, threads, weight, rows, gradients, shares, lr, decay, salt)


@compiled
def _adagrad(thread, threads, weight, square, rows, gradients, shares, lr, decay, eps, salt):
    w = np.empty(weight.shape[1], dtype=np.float32)
    g = np.empty(weight.shape[1], dtype=np.float32)
    s = np.empty(square.shape[1], dtype=np.float32)
    per_row = square.shape[1] == 1
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
            prefetch(square, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        for j in range(w.size):
            w[j] = load(weight, row, j)
            g[j] = gradients[i, j] + row_decay * w[j]
        if per_row:
            total = np.float32(0.0)
            for j in range(w.size):
                total += g[j] * g[j]
            s[0] = load(square, row, 0) + total / np.float32(w.size)
            rate = lr / (np.float32(math.sqrt(s[0])) + eps)
            for j in range(w.size):
                w[j] -= rate * g[j]
        else:
            for j in range(w.size):
                s[j] = load(square, row, j) + g[j] * g[j]
                w[j] -= lr * g[j] / (np.float32(math.sqrt(s[j])) + eps)
        store_row(square, row, s, salt + 1)
        store_row(weight, row, w, salt)


@parallel
def adagrad(threads, weight, square, rows, gradients, shares, lr, decay, eps, salt):
    for thread in prange(threads):
        _adagrad(thread, threads, weight, square, rows, gradients, shares, lr, decay, eps, salt)


@compiled
def _adam(thread, threads, tensors, steps, step, rows, gradients, shares, lr, decay, options, corrections, salt):
    weight, moment, square = tensors
    beta_1, beta_2, eps = options
    one = np.float32(1.0)
    w = np.empty(weight.shape[1], dtype=np.float32)
    m = np.empty(weight.shape[1], dtype=np.float32)
    v = np.empty(weight.shape[1], dtype=np.float32)
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    latest = corrections.shape[1] - 1
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
            prefetch(moment, rows[i + _AHEAD])
            prefetch(square, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        row_step = step
        if steps.size:
            steps[row] += 1
            row_step = np.int64(steps[row])
        rate = lr / corrections[0, min(row_step, latest)]
        root = one / np.float32(math.sqrt(corrections[1, min(row_step, latest)]))
        for j in range(w.size):
            old = load(weight, row, j)
            g = gradients[i, j] + row_decay * old
            m[j] = beta_1 * load(moment, row, j) + (one - beta_1) * g
            v[j] = beta_2 * load(square, row, j) + (one - beta_2) * g * g
            w[j] = old - rate * m[j] / (np.float32(math.sqrt(v[j])) * root + eps)
        store_row(moment, row, m, salt + 1)
        store_row(square, row, v, salt + 2)
        store_row(weight, row, w, salt)


@parallel
def adam(threads, tensors, steps, step, rows, gradients, shares, lr, decay, options, corrections, salt):
    for thread in prange(threads):
        _adam(thread, threads, tensors, steps, step, rows, gradients, shares, lr, decay, options, corrections, salt)

"""Numba kernels that update distinct rows by one step. Called through :mod:`rectab.ops.numba_optim`.

``step`` is (rows, gradients, shares, lr, decay, number, salt), the fields of :class:`rectab.ops.step.Step`.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_lanes import load_lanes, read_block, scratch, store_row, write_block
from rectab.ops.numba_values import load, prefetch
from rectab.ops.numba_vectors import LANES, splat, sqrt_lanes, sum_lanes

_AHEAD = 16  # rows asked for before they are needed


@njit(inline="always")
def share_of(decay, shares, row):
    """The decay that a row feels; ``shares`` is empty where all feel the same."""
    return decay if shares.size == 0 else decay * shares[row]


@compiled
def _sgd(thread, threads, weight, step):
    rows, gradients, shares, lr, decay, _, salt = step
    w = scratch(weight.shape[1])
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        for j in range(0, w.size, LANES):
            old = load_lanes(weight, row, j)
            write_block(w, j, old - lr * (load_lanes(gradients, i, j) + row_decay * old))
        store_row(weight, row, w, salt)


@parallel
def sgd(threads, weight, step):
    for thread in prange(threads):
        _sgd(thread, threads, weight, step)


@compiled
def _adagrad(thread, threads, tensors, step, eps):
    weight, square = tensors
    rows, gradients, shares, lr, decay, _, salt = step
    w = scratch(weight.shape[1])
    g = scratch(weight.shape[1])
    s = scratch(square.shape[1])
    per_row = square.shape[1] == 1
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
            prefetch(square, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        if per_row:
            total = splat(np.float32(0.0))
            for j in range(0, w.size, LANES):
                old = load_lanes(weight, row, j)
                gradient = load_lanes(gradients, i, j) + row_decay * old
                total = total + gradient * gradient
                write_block(w, j, old)
                write_block(g, j, gradient)
            s[0] = load(square, row, 0) + sum_lanes(total) / np.float32(weight.shape[1])
            rate = lr / (np.float32(math.sqrt(s[0])) + eps)
            for j in range(0, w.size, LANES):
                write_block(w, j, read_block(w, j) - rate * read_block(g, j))
        else:
            for j in range(0, w.size, LANES):
                old = load_lanes(weight, row, j)
                gradient = load_lanes(gradients, i, j) + row_decay * old
                grown = load_lanes(square, row, j) + gradient * gradient
                write_block(s, j, grown)
                write_block(w, j, old - lr * gradient / (sqrt_lanes(grown) + eps))
        store_row(square, row, s, salt + 1)
        store_row(weight, row, w, salt)


@parallel
def adagrad(threads, tensors, step, eps):
    for thread in prange(threads):
        _adagrad(thread, threads, tensors, step, eps)


@compiled
def _adam(thread, threads, tensors, step, options, corrections):
    weight, moment, square, steps = tensors
    rows, gradients, shares, lr, decay, number, salt = step
    beta_1, beta_2, eps = options
    one = np.float32(1.0)
    w = scratch(weight.shape[1])
    m = scratch(weight.shape[1])
    v = scratch(weight.shape[1])
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    latest = corrections.shape[1] - 1
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
            prefetch(moment, rows[i + _AHEAD])
            prefetch(square, rows[i + _AHEAD])
            if steps.size:
                prefetch(steps, rows[i + _AHEAD])
        row = rows[i]
        row_decay = share_of(decay, shares, row)
        row_step = number
        if steps.size:
            steps[row] += 1
            row_step = np.int64(steps[row])
        rate = lr / corrections[0, min(row_step, latest)]
        root = one / np.float32(math.sqrt(corrections[1, min(row_step, latest)]))
        for j in range(0, w.size, LANES):
            old = load_lanes(weight, row, j)
            g = load_lanes(gradients, i, j) + row_decay * old
            mean = beta_1 * load_lanes(moment, row, j) + (one - beta_1) * g
            mean_square = beta_2 * load_lanes(square, row, j) + (one - beta_2) * g * g
            write_block(m, j, mean)
            write_block(v, j, mean_square)
            write_block(w, j, old - rate * mean / (sqrt_lanes(mean_square) * root + eps))
        store_row(moment, row, m, salt + 1)
        store_row(square, row, v, salt + 2)
        store_row(weight, row, w, salt)


@parallel
def adam(threads, tensors, step, options, corrections):
    for thread in prange(threads):
        _adam(thread, threads, tensors, step, options, corrections)

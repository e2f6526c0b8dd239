"""Numba kernels over jagged rows. Called through :mod:`rectab.ops.kernels_numba`.

Threads take whole bags, shared out by the number of values in them.
"""

# Kernels have no type hints: numba infers them.
# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.ops.numba_support import compiled, parallel
from rectab.ops.numba_values import load


@compiled
def first_bag(thread, threads, offsets):
    """The first bag of a thread: where its share of (values + bags) begins, so empty bags count as well."""
    bags = offsets.size - 1
    target = thread * (offsets[bags] + bags) // threads
    low, high = 0, bags
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] + middle < target:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _segment_sum(thread, threads, values, offsets, weights, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for j in range(out.shape[1]):
            out[bag, j] = 0
        for i in range(offsets[bag], offsets[bag + 1]):
            if weights.size:
                weight = weights[i]
                for j in range(out.shape[1]):
                    out[bag, j] += weight * load(values, i, j)
            else:
                for j in range(out.shape[1]):
                    out[bag, j] += load(values, i, j)


@parallel
def segment_sum(threads, values, offsets, weights, out):
    for thread in prange(threads):
        _segment_sum(thread, threads, values, offsets, weights, out)


@compiled
def _spread_bags(thread, threads, vectors, offsets, weights, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for i in range(offsets[bag], offsets[bag + 1]):
            if weights.size:
                weight = weights[i]
                for j in range(out.shape[1]):
                    out[i, j] = weight * load(vectors, bag, j)
            else:
                for j in range(out.shape[1]):
                    out[i, j] = load(vectors, bag, j)


@parallel
def spread_bags(threads, vectors, offsets, weights, out):
    for thread in prange(threads):
        _spread_bags(thread, threads, vectors, offsets, weights, out)


@compiled
def _segment_dot(thread, threads, vectors, offsets, values, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for i in range(offsets[bag], offsets[bag + 1]):
            total = np.float32(0.0) * load(values, i, 0)
            for j in range(values.shape[1]):
                total += load(vectors, bag, j) * load(values, i, j)
            out[i] = total


@parallel
def segment_dot(threads, vectors, offsets, values, out):
    for thread in prange(threads):
        _segment_dot(thread, threads, vectors, offsets, values, out)

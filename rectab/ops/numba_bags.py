"""Numba kernels over jagged rows. Called through :mod:`rectab.ops.kernels_numba`.

Threads take whole bags, shared out by the number of values in them. fp32 and halves go in blocks of lanes; fp64, which
only tests of gradients use, element by element.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange, types
from numba.extending import overload

from rectab.jit import compiled, parallel
from rectab.ops.numba_lanes import load_lanes, store_lanes
from rectab.ops.numba_values import copy_row
from rectab.ops.numba_vectors import LANES, splat, sum_lanes


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


def _sum_bag(values, weights, begin, end, out, bag):
    """``out[bag]`` = sum of ``values[begin:end]``, weighted if there are weights; in kernels only."""
    raise NotImplementedError


@overload(_sum_bag)
def _sum_bag_of(values, weights, begin, end, out, bag):
    if values.dtype == types.float64:

        def by_element(values, weights, begin, end, out, bag):
            for j in range(out.shape[1]):
                out[bag, j] = 0
            for i in range(begin, end):
                for j in range(out.shape[1]):
                    out[bag, j] += values[i, j] * (weights[i] if weights.size else 1)

        return by_element

    def by_block(values, weights, begin, end, out, bag):
        for j in range(0, out.shape[1], LANES):
            total = splat(np.float32(0.0))
            if weights.size:
                for i in range(begin, end):
                    total = total + weights[i] * load_lanes(values, i, j)
            else:
                for i in range(begin, end):
                    total = total + load_lanes(values, i, j)
            store_lanes(out, bag, j, total)

    return by_block


@compiled
def _segment_sum(thread, threads, values, offsets, weights, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        _sum_bag(values, weights, offsets[bag], offsets[bag + 1], out, bag)


@parallel
def segment_sum(threads, values, offsets, weights, out):
    for thread in prange(threads):
        _segment_sum(thread, threads, values, offsets, weights, out)


@compiled
def _spread_bags(thread, threads, vectors, offsets, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for i in range(offsets[bag], offsets[bag + 1]):
            copy_row(vectors, bag, out, i)


@parallel
def spread_bags(threads, vectors, offsets, out):
    for thread in prange(threads):
        _spread_bags(thread, threads, vectors, offsets, out)


def _scale_into(vectors, bag, weight, out, i):
    """``out[i] = weight * vectors[bag]``; in kernels only."""
    raise NotImplementedError


@overload(_scale_into)
def _scale_into_of(vectors, bag, weight, out, i):
    if vectors.dtype == types.float64:

        def by_element(vectors, bag, weight, out, i):
            for j in range(out.shape[1]):
                out[i, j] = weight * vectors[bag, j]

        return by_element

    def by_block(vectors, bag, weight, out, i):
        for j in range(0, out.shape[1], LANES):
            store_lanes(out, i, j, weight * load_lanes(vectors, bag, j))

    return by_block


@compiled
def _spread_weighted(thread, threads, vectors, offsets, weights, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for i in range(offsets[bag], offsets[bag + 1]):
            _scale_into(vectors, bag, weights[i], out, i)


@parallel
def spread_weighted(threads, vectors, offsets, weights, out):
    for thread in prange(threads):
        _spread_weighted(thread, threads, vectors, offsets, weights, out)


def _dot(vectors, bag, values, i):
    """Product of ``vectors[bag]`` and ``values[i]``; in kernels only."""
    raise NotImplementedError


@overload(_dot)
def _dot_of(vectors, bag, values, i):
    if values.dtype == types.float64:

        def by_element(vectors, bag, values, i):
            total = 0.0
            for j in range(values.shape[1]):
                total += vectors[bag, j] * values[i, j]
            return total

        return by_element

    def by_block(vectors, bag, values, i):
        total = splat(np.float32(0.0))
        for j in range(0, values.shape[1], LANES):
            total = total + load_lanes(vectors, bag, j) * load_lanes(values, i, j)
        return sum_lanes(total)

    return by_block


@compiled
def _segment_dot(thread, threads, vectors, offsets, values, out):
    for bag in range(first_bag(thread, threads, offsets), first_bag(thread + 1, threads, offsets)):
        for i in range(offsets[bag], offsets[bag + 1]):
            out[i] = _dot(vectors, bag, values, i)


@parallel
def segment_dot(threads, vectors, offsets, values, out):
    for thread in prange(threads):
        _segment_dot(thread, threads, vectors, offsets, values, out)

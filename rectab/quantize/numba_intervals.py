"""The best centroids of numbers, exactly: a numba kernel called through :mod:`rectab.quantize.kmeans`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.jit import compiled, kernel

__all__ = ["best_intervals"]


@compiled
def _last_cut(mass, total, square, least, end, low, high):
    """(the least error of the numbers before ``end``, the last of its intervals' begins in ``low .. high``).

    An interval's error about its mean is its sum of x^2 less (sum of x)^2 / mass.
    """
    best, at = np.inf, low
    for i in range(low, min(high, end) + 1):
        part, inside = total[end] - total[i], mass[end] - mass[i]
        error = least[i] - square[i] - (part * part / inside if inside > 0 else 0.0)
        if error < best:
            best, at = error, i
    return best + square[end], at


@kernel
def best_intervals(numbers, weights, centroids):
    """Cut sorted numbers into K intervals of the least weighted squared error about their means.

    Dynamic programming over the number of intervals, n * log n errors for each: the best last cut moves right both with
    the end and with the number of intervals (Wu 1991; Grønlund et al. 2017).

    Args:
        numbers, weights: fp32 [n], numbers ascending and near 0, n at least K.
        centroids: fp32 [K]: filled, ascending.
    """
    n, count = numbers.size, centroids.size
    mass, total, square = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1)  # sums before each number
    for i in range(n):
        weight, x = np.float64(weights[i]), np.float64(numbers[i])
        mass[i + 1] = mass[i] + weight
        total[i + 1] = total[i] + weight * x
        square[i + 1] = square[i] + weight * x * x
    cuts = np.zeros((count, n + 1), np.int32)  # where the last of k + 1 intervals over the first j numbers begins
    least, after = np.zeros(n + 1), np.empty(n + 1)
    for j in range(1, n + 1):
        least[j] = square[j] - (total[j] * total[j] / mass[j] if mass[j] > 0 else 0.0)
    for k in range(1, count):
        stride = 1
        while stride < n:
            stride *= 2
        after[n], cuts[k, n] = _last_cut(mass, total, square, least, n, k, n)
        while stride > 1:  # the places halfway between those that are known, which bound where their cuts are
            stride //= 2
            for j in range(n - stride, -1, -2 * stride):
                low = max(cuts[k, j - stride] if j >= stride else 0, cuts[k - 1, j], min(k, j))
                after[j], cuts[k, j] = _last_cut(mass, total, square, least, j, low, cuts[k, j + stride])
        least, after = after, least
    end = n
    for k in range(count - 1, -1, -1):
        begin = cuts[k, end]
        inside = mass[end] - mass[begin]
        centroids[k] = (total[end] - total[begin]) / inside if inside > 0 else numbers[min(begin, n - 1)]
        end = begin

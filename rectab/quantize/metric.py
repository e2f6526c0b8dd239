"""The metric of the model's output: how far it moves when a vector changes by d, ``sqrt(d' G d)``, G of a vocabulary.

G [D, D] is the mean of g g' over lookups, g the gradient of the output by the looked-up vector
(:mod:`rectab.quantize.sensitivity`). It is far from round where a model reads few directions of its vectors: on
KuaiRand one direction of 16 has nearly all of it. A codebook fitted in the metric spends its codes there.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

__all__ = ["Metric"]

_FLOOR = 1e-3
"""Least eigenvalue, as a share of their mean: no direction is free, for G is measured, and to first order."""


class Metric:
    """What a change d of a vector costs: ``d' G d``.

    Args:
        matrix: G, [D, D], symmetric, no negative eigenvalue.

    Raises:
        ValueError: it is no square matrix of finite numbers.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        matrix = np.asarray(matrix, np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
            raise ValueError(f"a metric is a square matrix of finite numbers, got shape {matrix.shape}")
        self.matrix = matrix
        self._parts: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def plain(cls, embedding_dim: int) -> Metric:
        """The squared length."""
        return cls(np.eye(embedding_dim))

    def part(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(L, its inverse), fp32 [s, s]: lengths of ``d[first:last] @ L`` are those in the metric, up to a factor."""
        if (first, last) not in self._parts:
            values, axes = np.linalg.eigh(self.matrix[first:last, first:last])
            roots = np.sqrt(np.maximum(values / max(float(values.mean()), 1e-300), _FLOOR))
            self._parts[first, last] = (axes * roots).astype(np.float32), (axes / roots).T.astype(np.float32)
        return self._parts[first, last]

    @cached_property
    def is_diagonal(self) -> bool:
        """Whether the dimensions have nothing to do with one another."""
        return not (self.matrix - np.diag(np.diag(self.matrix))).any()

    @cached_property
    def scaled(self) -> np.ndarray:
        """fp32 [D, D]: the metric up to a factor, no direction free."""
        mean = max(float(np.trace(self.matrix)) / len(self.matrix), 1e-300)
        return (self.matrix / mean + _FLOOR * np.eye(len(self.matrix))).astype(np.float32)

    def costs(self, changes: np.ndarray) -> np.ndarray:
        """fp32 [n, D] -> fp64 [n]."""
        wide = changes.astype(np.float64)
        return np.einsum("nd,nd->n", wide @ self.matrix, wide)

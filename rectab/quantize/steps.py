"""The step of a uniform grid: least weighted squared error, by candidates and then by alternating least squares."""

from __future__ import annotations

import numpy as np
import torch

from rectab.ops.grids import Grid

__all__ = ["fit_steps", "nearest_codes"]

_CANDIDATES = np.linspace(0.1, 1.0, 37, dtype=np.float32)
_REFINEMENTS = 4


def fit_steps(grid: Grid, vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """fp32 [n, D], fp32 [n] -> fp32 [D], values that fp16 holds: the best step of every column."""
    largest = np.abs(vectors).max(0, initial=0.0)
    reach = largest / max(grid.offset, grid.levels - 1 - grid.offset, 1)
    steps, errors = reach, np.full(vectors.shape[1], np.inf)
    for share in _CANDIDATES:
        candidate = reach * share
        error = _errors(grid, vectors, weights, candidate)
        steps, errors = np.where(error < errors, candidate, steps), np.minimum(error, errors)
    for _ in range(_REFINEMENTS):
        levels = nearest_codes(grid, vectors, steps).astype(np.float32) - grid.offset
        energy = (weights[:, None] * levels**2).sum(0)
        fitted = (weights[:, None] * levels * vectors).sum(0)
        steps = np.where(energy > 0, np.maximum(fitted / np.maximum(energy, 1e-30), 0.0), steps)
    return np.minimum(steps, 65504).astype(np.float16).astype(np.float32)


def nearest_codes(grid: Grid, vectors: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """fp32 [n, D], fp32 broadcastable to it -> int32 [n, D]."""
    return grid.nearest(torch.from_numpy(vectors), torch.from_numpy(steps.astype(np.float32))).numpy()


def _errors(grid: Grid, vectors: np.ndarray, weights: np.ndarray, steps: np.ndarray) -> np.ndarray:
    decoded = (nearest_codes(grid, vectors, steps).astype(np.float32) - grid.offset) * steps.astype(np.float32)
    return (weights[:, None] * (decoded - vectors) ** 2).sum(0)

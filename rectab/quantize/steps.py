"""The steps of a uniform grid: least weighted squared error, by candidates and then by alternating least squares."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rectab.ops.grids import Grid
from rectab.ops.numba_support import launch, thread_count
from rectab.quantize import numba_steps as kernels
from rectab.quantize.sampling import draw_rows

__all__ = ["Steps", "fit_steps", "nearest_codes", "to_fp16"]

Steps = Literal["block", "dimension", "row"]

_SHARES = (2.0 ** (-np.arange(43) / 6)).astype(np.float32)
_SAMPLE = 4096
_REFINEMENTS = 4
_FP16_MAX = np.float32(65504)


def fit_steps(grid: Grid, vectors: np.ndarray, weights: np.ndarray, per: Steps, seed: int) -> np.ndarray:
    """fp32 [n, D], fp32 [n] -> steps that fp16 holds, fp32 [1, 1], [1, D] or [n, 1].

    Candidates are tried on a sample drawn by weight; refinements take all vectors.
    """
    num_ids, width = vectors.shape
    if per == "row":
        return to_fp16(_fit_columns(grid, vectors, np.ones(width, np.float32)))[:, None]
    sample, mass = draw_rows(vectors, weights, _SAMPLE, np.random.default_rng(seed))
    if per == "block":
        steps = np.repeat(_fit_columns(grid, sample.reshape(1, -1), np.repeat(mass, width)), width)
    else:
        steps = _fit_columns(grid, np.ascontiguousarray(sample.T), mass)
    for _ in range(_REFINEMENTS if len(sample) < num_ids else 0):
        above, below = kernels.moments(vectors, weights, steps, grid.levels, grid.offset)
        if per == "block":
            above, below = np.full(width, above.sum()), np.full(width, below.sum())
        steps = np.where(below > 0, above / np.where(below > 0, below, 1), steps).astype(np.float32)
    return to_fp16(steps[:1] if per == "block" else steps)[None]


def nearest_codes(grid: Grid, vectors: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """fp32 [n, D], fp32 [1 or n, 1 or D] -> uint8 [n, D]."""
    out = np.empty(vectors.shape, np.uint8)
    launch(kernels.codes, thread_count(vectors.size), vectors, steps, grid.levels, grid.offset, out)
    return out


def to_fp16(values: np.ndarray) -> np.ndarray:
    """fp32 -> fp32 that fp16 holds; what is beyond its range becomes 65504."""
    return np.clip(values, -_FP16_MAX, _FP16_MAX).astype(np.float16).astype(np.float32)


def _fit_columns(grid: Grid, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return kernels.fit_columns(columns, weights, grid.levels, grid.offset, _SHARES, _REFINEMENTS)

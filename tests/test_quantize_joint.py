"""Codes chosen together: no cost rises, and no other code of one part would lower it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.ops.grids import GRIDS
from rectab.quantize.encodings import Bits, Codebook, Ternary
from rectab.quantize.joint import improve_centroids, improve_levels
from rectab.quantize.metric import Metric


def case(num_ids: int, width: int, seed: int) -> tuple[np.ndarray, Metric]:
    random = np.random.default_rng(seed)
    root = random.standard_normal((width, max(width // 2, 1)))
    return random.standard_normal((num_ids, width)).astype(np.float32), Metric(root @ root.T)


def costs_of(metric: Metric, changes: np.ndarray) -> np.ndarray:
    wide = changes.astype(np.float64)
    return np.einsum("nd,de,ne->n", wide, metric.scaled.astype(np.float64), wide)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(GRIDS)), st.integers(0, 9), st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_levels(name: str, num_ids: int, width: int, by_row: bool, seed: int) -> None:
    grid, (vectors, metric) = GRIDS[name], case(num_ids, width, seed)
    random = np.random.default_rng(seed)
    steps = random.uniform(0, 2 / grid.levels, (num_ids, 1) if by_row else (1, width)).astype(np.float32)
    codes = random.integers(0, grid.levels, vectors.shape).astype(np.uint8)

    def cost(codes: np.ndarray) -> np.ndarray:
        return costs_of(metric, (codes - np.float32(grid.offset)) * steps - vectors)

    before = cost(codes)
    improve_levels(grid, vectors, steps, metric, codes)
    assert codes.max(initial=0) < grid.levels
    assert (cost(codes) <= before * (1 + 1e-4) + 1e-6).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9), st.integers(2, 7), st.integers(1, 3), st.sampled_from([2, 5, 16]), st.integers(0, 99))
def test_centroids(num_ids: int, width: int, sub_dim: int, num_codes: int, seed: int) -> None:
    vectors, metric = case(num_ids, width, seed)
    random = np.random.default_rng(seed)
    firsts = list(range(0, width, sub_dim))
    books = [(50 + random.standard_normal((num_codes, min(sub_dim, width - f)))).astype(np.float32) for f in firsts]
    vectors += 50
    codes = random.integers(0, num_codes, (num_ids, len(books))).astype(np.uint16)

    def cost(codes: np.ndarray) -> np.ndarray:
        decoded = [book[codes[:, part]] for part, book in enumerate(books)]
        return costs_of(metric, np.concatenate(decoded, 1) - vectors)

    before = cost(codes)
    improve_centroids(vectors, books, metric, codes)
    assert (cost(codes) <= before * (1 + 1e-3) + 1e-5).all()


@pytest.mark.parametrize("encoding", [Bits(2), Bits(4), Ternary(), Codebook(2, 8), Codebook(3, 16)])
def test_a_fit_ends_where_no_single_code_is_better(encoding: Any) -> None:
    """Against every other code of every part, in plain numpy."""
    vectors, metric = case(30, 6, 3)
    weights = np.ones(30, np.float32)
    fitted = encoding.fit(vectors, weights, 0, metric)
    decoded = fitted.decode()
    own = costs_of(metric, decoded - vectors)
    better = 0
    for part, others in enumerate(_values(fitted)):
        first = part * others.shape[1]
        for value in others:
            changed = decoded.copy()
            changed[:, first : first + others.shape[1]] = value
            better += int((costs_of(metric, changed - vectors) < own * (1 - 1e-3) - 1e-6).sum())
    assert better <= 3  # sweeps are few
    round_part_by_part = encoding.fit(vectors, weights, 0, Metric(np.diag(np.diag(metric.matrix))))
    assert fitted.error(weights) < metric.costs(round_part_by_part.decode() - vectors).sum()


def _values(fitted: Any) -> list[np.ndarray]:
    """What the dimensions of every part can be, [choices, width] a part."""
    if hasattr(fitted, "books"):
        return list(fitted.books)
    levels = np.arange(fitted.grid.levels) - fitted.grid.offset
    return [(levels * step)[:, None].astype(np.float32) for step in fitted.steps[0]]

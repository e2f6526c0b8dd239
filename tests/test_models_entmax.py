"""alpha-entmax: its two ends, cases by hand, bisection, the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectab.models.entmax import entmax


def by_bisection(scores: Tensor, alpha: float) -> Tensor:
    """The threshold with which the weights sum to 1, by halving in float64."""
    scaled, power = scores.double() * (alpha - 1), 1 / (alpha - 1)
    low = scaled.amax(-1, keepdim=True) - 1
    high = low + 1
    for _ in range(100):
        middle = (low + high) / 2
        small = ((scaled - middle).clamp(min=0) ** power).sum(-1, keepdim=True) >= 1
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return (scaled - low).clamp(min=0) ** power


def sparsemax(scores: Tensor) -> Tensor:
    """Martins and Astudillo, ICML 2016, algorithm 1: by sorting."""
    ordered = scores.sort(descending=True).values
    sums = ordered.cumsum(-1)
    counts = torch.arange(1, scores.shape[-1] + 1)
    kept = (1 + counts * ordered > sums).sum(-1, keepdim=True)
    threshold = (sums.gather(-1, kept - 1) - 1) / kept
    return (scores - threshold).clamp(min=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("alpha", [1.01, 1.1, 1.5, 1.7, 1.9, 2.0])
@pytest.mark.parametrize("fields", [1, 2, 10, 40])
def test_as_bisection(fields: int, alpha: float, scale: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(500, fields) * scale
    got = entmax(scores, alpha)
    torch.testing.assert_close(got.double(), by_bisection(scores, alpha), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.sum(-1), torch.ones(500))
    assert got.min() >= 0


def test_two_is_sparsemax_and_one_is_softmax() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1000, 12) * 2
    torch.testing.assert_close(entmax(scores, 2.0), sparsemax(scores), rtol=0, atol=1e-6)
    assert torch.equal(entmax(scores, 2.0) > 0, sparsemax(scores) > 0)
    assert torch.equal(entmax(scores, 1.0), scores.softmax(-1))
    torch.testing.assert_close(entmax(scores.double(), 1.0001), scores.double().softmax(-1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("scores", "alpha", "expected"),
    [
        ([1.0, 0.0], 2.0, [1.0, 0.0]),  # threshold 0
        ([0.5, 0.0, -3.0], 2.0, [0.75, 0.25, 0.0]),  # threshold -1/4
        ([0.0, 0.0, 0.0, 0.0], 1.3, [0.25, 0.25, 0.25, 0.25]),
        # alpha 1.5: weights (z/2 - tau)^2; 0.6^2 + 0.8^2 = 1 with z/2 = 0.8, 0.6 and tau = 0.
        ([1.6, 1.2, -0.2], 1.5, [0.64, 0.36, 0.0]),
    ],
)
def test_by_hand(scores: list[float], alpha: float, expected: list[float]) -> None:
    torch.testing.assert_close(entmax(torch.tensor([scores]), alpha), torch.tensor([expected]), rtol=0, atol=1e-6)


def test_more_alpha_selects_fewer() -> None:
    torch.manual_seed(0)
    scores = torch.randn(500, 20)
    kept = [float((entmax(scores, alpha) > 0).sum(-1).float().mean()) for alpha in (1.0, 1.3, 1.6, 2.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 20
    assert kept[-1] < 6


@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.5, 1.7, 2.0])
def test_the_gradient_is_exact(alpha: float) -> None:
    torch.manual_seed(1)
    scores = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: entmax(z, alpha), scores, eps=1e-7, atol=1e-5)


def test_scores_far_apart_and_shifted() -> None:
    scores = torch.tensor([[1e4, 0.0, -1e4], [3.0, 3.0, -1e30]])
    for alpha in (1.2, 1.7, 2.0):
        torch.testing.assert_close(entmax(scores, alpha), torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    small = torch.randn(50, 5)
    torch.testing.assert_close(entmax(small + 7, 1.7), entmax(small, 1.7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.9, 2.5, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be in 1 \(softmax\) to 2 \(sparsemax\)"):
        entmax(torch.zeros(1, 2), alpha)

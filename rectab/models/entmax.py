"""alpha-entmax (Peters, Niculae and Martins, ACL 2019, arXiv 1905.05702): weights that sum to 1, many of them 0.

Between softmax (``alpha`` 1, nothing is 0) and sparsemax (``alpha`` 2). The weights of scores z are
``[(alpha - 1) z - tau]_+ ^ (1 / (alpha - 1))`` for the one threshold ``tau`` with which they sum to 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rectab.ops.dispatch import is_eager

__all__ = ["check_alpha", "entmax"]

MAX_STEPS = 12
"""Newton's steps. Six are enough for 40 random scores; a test compares with bisection."""


def check_alpha(alpha: float) -> None:
    """Raises ValueError for an ``alpha`` outside 1 (softmax) to 2 (sparsemax)."""
    if not 1.0 <= alpha <= 2.0:
        raise ValueError(f"entmax: alpha must be in 1 (softmax) to 2 (sparsemax), got {alpha}")


def entmax(scores: Tensor, alpha: float) -> Tensor:
    """float [*, F] -> float [*, F]: weights of every F scores, at least 0, that sum to 1.

    The gradient is exact; of ``alpha`` there is none. Raises ValueError for an ``alpha`` outside 1 to 2.
    """
    check_alpha(alpha)
    if alpha == 1.0:
        return scores.softmax(-1)
    weights: Tensor = _Entmax.apply(scores, alpha)
    return weights


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, alpha: float) -> Tensor:
        weights = _weights(scores, alpha)
        ctx.save_for_backward(weights)
        ctx.alpha = alpha
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The Jacobian is ``diag(s) - s s^T / sum(s)`` with ``s = weights ^ (2 - alpha)``, 0 where a weight is."""
        (weights,) = ctx.saved_tensors
        slopes = torch.where(weights > 0, weights ** (2.0 - ctx.alpha), 0.0)
        weighted = slopes * gradients[0]
        mean = weighted.sum(-1, keepdim=True) / slopes.sum(-1, keepdim=True)
        return weighted - slopes * mean, None


def _weights(scores: Tensor, alpha: float) -> Tensor:
    """Newton's method on the p-norm of ``[x - tau]_+``, which is 1 where the weights sum to 1 (p = 1 / (alpha - 1)).

    The norm is convex in ``tau`` and falls, so from a ``tau`` too small every step stays on that side; it is a straight
    line where one score or equal scores are left, so steps are few also near softmax, where p is large.
    """
    power = 1.0 / (alpha - 1.0)
    scaled = scores * (alpha - 1.0)
    excess = scaled - (scaled.amax(-1, keepdim=True) - 1.0)  # tau so small that the largest weight alone is 1
    for _ in range(MAX_STEPS):
        kept = excess.clamp(min=0.0)
        lower = kept ** (power - 1.0) if power > 1.0 else (kept > 0).to(kept.dtype)
        total, slope = (lower * kept).sum(-1, keepdim=True), lower.sum(-1, keepdim=True)
        step = (total ** (1.0 / power) - 1.0) * total ** (1.0 - 1.0 / power) / slope
        excess = excess - step
        if _may_look(step) and (not step.numel() or bool(step.max() <= torch.finfo(step.dtype).eps)):
            break
    weights = excess.clamp(min=0.0) ** power
    return weights / weights.sum(-1, keepdim=True)


def _may_look(values: Tensor) -> bool:
    """Whether a number may decide what is computed next: on a GPU everybody would wait for it, and a graph has none."""
    return values.device.type == "cpu" and is_eager(values)

"""What training for a ranking minimises."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["bpr", "sampled_logloss"]


def bpr(scores: Tensor, positives: int) -> Tensor:
    """Mean of -log sigmoid(positive - negative) (Rendle et al., UAI 2009), without its L2, which the table has.

    Args:
        scores: float [B * (1 + n)]: of B positives, then n times of all their negatives.
        positives: B.
    """
    return nn.functional.softplus(scores[positives:].view(-1, positives) - scores[:positives]).mean()


def sampled_logloss(scores: Tensor, positives: int) -> Tensor:
    """Mean logloss of B positives and their negatives, laid out as for :func:`bpr`."""
    labels = scores.new_zeros(len(scores))
    labels[:positives] = 1
    return nn.functional.binary_cross_entropy_with_logits(scores, labels)

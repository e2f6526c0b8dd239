"""OptEmbed's two masks: which rows are kept, and how many leading dimensions of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["keep_above_zero", "keep_leading", "row_norms", "surrogate_slope"]


def surrogate_slope(x: Tensor) -> Tensor:
    """The long-tailed estimator H(x) that stands for the step's derivative (Liu et al., Dynamic Sparse Training, ICLR
    2020): ``2 - 4|x|`` up to 0.4, ``0.4`` up to 1, and 0 beyond."""
    size = x.abs()
    return torch.where(size <= 0.4, 2.0 - 4.0 * size, torch.where(size <= 1.0, 0.4, 0.0)).to(x.dtype)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * surrogate_slope(x)


def keep_above_zero(margin: Tensor) -> Tensor:
    """1 where ``margin`` > 0, else 0 (a row whose norm equals its threshold is pruned); H is its gradient."""
    if not (torch.is_grad_enabled() and margin.requires_grad):
        return (margin > 0).to(margin.dtype)
    kept: Tensor = _Step.apply(margin)
    return kept


def row_norms(vectors: Tensor) -> Tensor:
    """float32 [*]: L1 norm of [*, D]."""
    return vectors.float().abs().sum(-1)


def keep_leading(widths: Tensor, embedding_dim: int, dtype: torch.dtype) -> Tensor:
    """int [*] -> [*, D]: ones in the first ``width`` dimensions, zeros in the others."""
    return (torch.arange(embedding_dim, device=widths.device) < widths.unsqueeze(-1)).to(dtype)

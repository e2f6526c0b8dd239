"""Sums over jagged rows: bags of embeddings, attention-weighted histories; and their inverse, spreading over rows.

Costs follow the real lengths. Gradients are exact and have derivatives themselves. The kernels (numba, triton) sum in a
fixed order, so training is deterministic. What no kernel takes, such as fp64 on CUDA, goes through torch's
``index_add``, which has no such order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rectab.ops.dispatch import in_graph, is_eager, kernel_name, kernels_for

__all__ = ["bag_of_each", "segment_sum", "spread_bags"]


def segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of every bag.

    Args:
        values: float [sum L, D].
        offsets: int64 [B + 1]; bag b is ``values[offsets[b]:offsets[b + 1]]``.
        weights: float [sum L], a factor for every value; gradients reach it.

    Returns:
        float [B, D], zeros for an empty bag.

    Raises:
        ValueError: shapes do not fit, or offsets do not rise from 0 to the number of values.
    """
    if values.dim() != 2 or (weights is not None and weights.shape != values.shape[:1]):
        raise ValueError(
            f"segment_sum needs values [n, D] and weights [n], got {tuple(values.shape)} and "
            f"{None if weights is None else tuple(weights.shape)}"
        )
    if not _has_kernel(values, offsets):
        return _plain_segment_sum(values, offsets, weights)
    return _SegmentSum.apply(values, offsets, weights)


def spread_bags(vectors: Tensor, offsets: Tensor, count: int | None = None) -> Tensor:
    """float [B, D], int64 [B + 1] -> float [sum L, D]: every value of a bag gets the bag's vector.

    ``count`` is sum L, where the caller knows it: a graph then has a shape that depends on no value.
    """
    if not _has_kernel(vectors, offsets):
        return vectors[_bag_of_each(offsets) if count is None else bag_of_each(count, offsets)]
    return _SpreadBags.apply(vectors, offsets, int(offsets[-1]) if count is None else count)


def _has_kernel(values: Tensor, offsets: Tensor) -> bool:
    if not is_eager(values, offsets):
        return False
    kernel = kernel_name(values.device)
    return kernel == "numba" or (kernel == "triton" and values.dtype != torch.float64)


def _bag_of_each(offsets: Tensor) -> Tensor:
    bags = torch.arange(offsets.numel() - 1, device=offsets.device)
    return torch.repeat_interleave(bags, offsets[1:] - offsets[:-1])


def bag_of_each(count: int, offsets: Tensor) -> Tensor:
    """int64 [count]: the bag of each of ``count`` values, by offsets int64 [B + 1]; a graph knows the shape without the
    data."""
    if in_graph():  # which cannot raise ValueError
        rising = (offsets[1:] >= offsets[:-1]).all() & (offsets[0] == 0) & (offsets[-1] == count)
        torch._assert_async(rising, "offsets must rise from 0 to the number of values")
    first = offsets[:-1]
    return offsets.new_zeros(count + 1).index_add(0, first, torch.ones_like(first))[:count].cumsum(0) - 1


def _plain_segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    if weights is not None:
        values = values * weights.unsqueeze(-1)
    total = values.new_zeros(offsets.numel() - 1, values.shape[1])
    return total.index_add(0, bag_of_each(values.shape[0], offsets), values)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        # Values are needed again only for the gradient of the weights.
        kept = values if weights is not None and weights.requires_grad else values[:0]
        ctx.save_for_backward(kept, offsets, weights)
        ctx.count, ctx.dtype = values.shape[0], values.dtype
        return kernels_for(values.device).segment_sum(values, offsets, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, offsets, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient must have one of its own
            return _gradients_with_graph(ctx, gradient)
        kernels = kernels_for(gradient.device)
        for_values = for_weights = None
        if ctx.needs_input_grad[0]:
            for_values = kernels.spread_bags(gradient, offsets, ctx.count, weights).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            for_weights = kernels.segment_dot(gradient, offsets, values).to(weights.dtype)
        return for_values, None, for_weights


def _gradients_with_graph(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    """What the backward of :class:`_SegmentSum` gives, by operations that have a derivative."""
    values, offsets, weights = ctx.saved_tensors
    spread = spread_bags(gradient, offsets)
    for_values = for_weights = None
    if ctx.needs_input_grad[0]:
        for_values = (spread if weights is None else spread * weights.unsqueeze(-1)).to(ctx.dtype)
    if ctx.needs_input_grad[2]:
        for_weights = (spread * values).sum(-1).to(weights.dtype)
    return for_values, None, for_weights


class _SpreadBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, offsets: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(offsets)
        return kernels_for(vectors.device).spread_bags(vectors, offsets, count, None)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (offsets,) = ctx.saved_tensors
        return segment_sum(gradient, offsets), None, None

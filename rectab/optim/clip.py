"""Clipping by the norm of everything that is trained: rows and dense parameters together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rectab.ops.dispatch import KernelName, kernels_for
from rectab.ops.rows import RowStore

__all__ = ["clip_row_gradients"]


@torch.no_grad()
def clip_row_gradients(
    stores: Iterable[tuple[str, RowStore]],
    max_norm: float,
    extra: Iterable[Tensor] = (),
    kernel: KernelName = "auto",
) -> Tensor:
    """Scale all gradients by one factor so that their norm is at most ``max_norm``.

    A row's gradient is the sum over its lookups, as an optimizer would see it.

    Args:
        stores: (name, store) of every row store; their pending gradients are summed by row and scaled in place.
        max_norm: largest norm allowed, above 0.
        extra: dense parameters, whose ``grad`` is counted and scaled as well.
        kernel: as for the optimizer.

    Returns:
        fp32 scalar: the norm before clipping.
    """
    if max_norm <= 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    gradients = [p.grad for p in extra if p.grad is not None]
    for _, store in stores:
        if store.pending:
            rows, sums = kernels_for(store.weight.device, kernel).coalesce(store.pending, store.row_dim)
            store.pending = [(rows, sums)]
            gradients.append(sums)
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.device))
    return norm

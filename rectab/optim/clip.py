"""Clipping by the norm of everything that is trained: rows and dense parameters together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rectab.ops.dispatch import KernelName
from rectab.ops.gathering import gather_rows
from rectab.ops.rows import RowStore

__all__ = ["clip_row_gradients"]


@torch.no_grad()
def clip_row_gradients(
    stores: Iterable[tuple[str, RowStore]],
    max_norm: float,
    extra: Iterable[Tensor] = (),
    kernel: KernelName = "auto",
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Scale all gradients by one factor so that their norm is at most ``max_norm``.

    A row's gradient is the sum over its lookups, as an optimizer would see it.

    Args:
        stores: (name, store) of every row store; their pending gradients are summed by row and scaled in place.
        max_norm: largest norm allowed, above 0.
        extra: other parameters, whose ``grad`` (dense or sparse) is counted and scaled as well.
        kernel: as for the optimizer.
        total: where each of several processes holds rows of its own: the sum of a scalar over them, which all ask for.
            ``extra`` are the same in all. None where this process holds all rows.

    Returns:
        fp32 scalar: the norm before clipping.
    """
    if max_norm <= 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    stores = list(stores)
    gather_rows((store.gradients for _, store in stores), kernel)
    gradients = [_values_of_gradient(p) for p in extra if p.grad is not None]
    of_rows = [store.gradients.sum_on_device(kernel)[1] for _, store in stores if store.gradients.parts]
    if total is None:
        gradients, of_rows = gradients + of_rows, []
    if not gradients and total is None:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    if total is not None:
        here = torch.nn.utils.get_total_norm(of_rows).to(norm.device)
        norm = (norm.square() + total(here.square())).sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients + of_rows:
        gradient.mul_(scale.to(gradient.device))
    return norm


def _values_of_gradient(parameter: Tensor) -> Tensor:
    """A tensor whose scaling scales the gradient; a sparse one's values, each row's summed."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad._values()

"""Batch norm over the rows of all processes, on any device; torch's ``SyncBatchNorm`` is for GPUs alone.

Every process tells (count, mean, sum of squared deviations) of its rows in fp64, and all of them join these in the same
order (Chan, Golub and LeVeque, 1979), so that mean and variance have the same bits everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rectab.processes.group import Processes

__all__ = ["batch_norm_over"]


def batch_norm_over(
    processes: Processes,
    values: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` in training, as if the values of all processes were one batch.

    Gradients of ``weight`` and ``bias`` are of this process's values. With one value in all, which has no variance, the
    running averages serve.

    Args:
        processes: that have the rows.
        values: float [n, C, *], those of this process; n may be 0.
        running_mean, running_var: fp32 [C]; brought up to date.
        weight, bias: fp32 [C] or None.
        momentum: weight of this batch in the running averages.
        eps: added to the variance.
    """
    count, mean, variance = _moments(values.detach(), processes)
    if count < 2:
        return nn.functional.batch_norm(values, running_mean, running_var, weight, bias, False, 0.0, eps)
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    normed: Tensor = _Norm.apply(values, weight, bias, mean.float(), variance.float(), count, eps, processes.statistics)
    return normed


def _moments(values: Tensor, processes: Processes) -> tuple[int, Tensor, Tensor]:
    """(count, mean fp64 [C], variance fp64 [C]) over the values of all processes."""
    values = values.float()
    axes = _but_channels(values)
    count = values.numel() // values.shape[1]
    own = torch.zeros(2 * values.shape[1] + 1, dtype=torch.float64, device=values.device)
    own[0] = count
    if count:
        variance, mean = torch.var_mean(values, axes, correction=0)
        own[1:] = torch.cat([mean.double(), variance.double() * count])
    told = [torch.empty_like(own) for _ in range(processes.count)]
    dist.all_gather(told, own, group=processes.statistics)
    every = torch.stack(told)
    counts, (means, squares) = every[:, :1], every[:, 1:].chunk(2, dim=1)
    total = counts.sum().clamp(min=1.0)
    mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    return int(counts.sum()), mean, variance


def _but_channels(values: Tensor) -> list[int]:
    return [axis for axis in range(values.dim()) if axis != 1]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: int,
        eps: float,
        group: Any,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.count, ctx.eps, ctx.group = count, eps, group
        with torch.autocast(values.device.type, enabled=False):
            normed = nn.functional.batch_norm(values.float(), mean, variance, weight, bias, False, 0.0, eps)
        return normed.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance = ctx.saved_tensors
        gradient, values = outputs[0].float(), values.float()
        shape = [1, -1] + [1] * (values.dim() - 2)
        scale = (variance + ctx.eps).rsqrt()
        normed = (values - mean.view(shape)) * scale.view(shape)
        axes = _but_channels(values)
        sums = torch.stack([gradient.sum(axes), (gradient * normed).sum(axes)])
        of_bias, of_weight = sums.clone().unbind()
        dist.all_reduce(sums, group=ctx.group)
        mean_gradient, mean_product = (sums / ctx.count).unbind()
        gradient = gradient - mean_gradient.view(shape) - normed * mean_product.view(shape)
        scale = scale if weight is None else scale * weight
        of_values = (gradient * scale.view(shape)).to(ctx.saved_tensors[0].dtype)
        affine = (None, None) if weight is None else (of_weight, of_bias)
        return (of_values, *affine, None, None, None, None, None)

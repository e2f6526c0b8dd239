"""Batch norm whose statistics are of the whole batch, also where several processes have parts of it."""

from __future__ import annotations

from torch import Tensor, nn

from rectab.processes.group import current
from rectab.processes.norm import batch_norm_over
from rectab.processes.share import current_share

__all__ = ["BatchNorm", "batch_norm"]


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d``, see :func:`batch_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """float [B, C] or [B, C, L] -> the same shape."""
        processes = current()
        if not self.training or processes is None or current_share() is None:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var)
        return batch_norm_over(processes, input, *running, self.weight, self.bias, self.momentum, self.eps)


def batch_norm(
    values: Tensor, running_mean: Tensor, running_var: Tensor, training: bool, momentum: float, eps: float
) -> Tensor:
    """float [N, C] -> [N, C], without weight and bias; N counts over all processes.

    One value has no variance: with N <= 1 the running averages serve in training too.
    """
    processes = current()
    if training and processes is not None and current_share() is not None:
        return batch_norm_over(processes, values, running_mean, running_var, None, None, momentum, eps)
    training = training and values.shape[0] > 1
    return nn.functional.batch_norm(values, running_mean, running_var, training=training, momentum=momentum, eps=eps)

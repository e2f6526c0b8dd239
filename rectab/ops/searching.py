"""Where values lie among sorted starts, also in graphs that leave Python."""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops.dispatch import is_eager

__all__ = ["last_at_or_before"]


def last_at_or_before(starts: Tensor, values: Tensor) -> Tensor:
    """The place of the last start that is at most each value; 0 where all are larger.

    Args:
        starts: [n], ascending integers, n at least 1.
        values: [*], integers.

    Returns:
        int64 [*].
    """
    if is_eager(starts, values):
        return (torch.searchsorted(starts.to(values.dtype).contiguous(), values, right=True) - 1).clamp(min=0)
    at = torch.zeros_like(values, dtype=torch.int64)
    for step in (1 << bit for bit in reversed(range(len(starts).bit_length()))):  # by halves: ONNX has no searchsorted
        further = at + step
        inside = further < len(starts)
        at = torch.where(inside & (starts[further.clamp(max=len(starts) - 1)] <= values), further, at)
    return at

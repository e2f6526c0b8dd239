"""Tensors of several processes brought together in each of them; their lengths may differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_equal", "gather_parts"]


def gather_equal(own: Tensor, group: Any = None) -> Tensor:
    """[P, *]: ``own`` [*] of every process of ``group``, in the order of their ranks; of one shape in all of them."""
    told = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(told, own, group=group)
    return torch.stack(told)


def gather_parts(part: Tensor, lengths: Sequence[int], group: Any = None) -> list[Tensor]:
    """``part`` [n, *] of every process of ``group``, in the order of their ranks.

    Args:
        part: of this process.
        lengths: n of every process, as all of them know it.
        group: the processes; None for all.
    """
    padded = part.new_zeros((max(lengths), *part.shape[1:]))
    padded[: len(part)] = part
    return [one[:length] for one, length in zip(gather_equal(padded, group), lengths, strict=True)]

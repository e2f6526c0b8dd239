"""Row gradients of several processes that hold replicas of the same rows: gathered, so that all of them step alike.

All stores go together, in two messages a step: to start a message takes as long as some thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rectab.ops.dispatch import KernelName
from rectab.ops.gradients import Parts, RowGradients
from rectab.processes.gather import gather_equal, gather_parts

__all__ = ["gather_rows"]

_PLACES = 2  # fp32 elements that a row's number, int64, lies in


@torch.no_grad()
def gather_rows(stores: Iterable[RowGradients], kernel: KernelName = "auto") -> None:
    """Make what waits for a step in each store what it is over the processes, averaged; once for every step.

    Nothing happens to a store whose rows were not looked up in the forward pass of a ``DistributedDataParallel``.
    All processes have the same stores in the same order, and afterwards the same gradients to the bit.

    Args:
        stores: what passes over each store left.
        kernel: that sums, see :mod:`rectab.ops.dispatch`.
    """
    by_group: dict[Any, list[RowGradients]] = {}
    for gradients in stores:
        if gradients.group is not None:
            by_group.setdefault(gradients.group, []).append(gradients)
    for group, together in by_group.items():
        own = [gradients.local(kernel) for gradients in together]
        for gradients, parts in zip(together, _gathered(own, group), strict=True):
            gradients.set_gathered(parts, kernel)


def _gathered(own: Parts, group: Any) -> list[Parts]:
    """For each store, the parts of all processes of ``group``, in their order and divided by their number."""
    world = dist.get_world_size(group)
    count = torch.tensor([len(rows) for rows, _ in own], device=own[0][0].device)
    counts: list[list[int]] = gather_equal(count, group).tolist()
    widths = [sums.shape[1] + _PLACES for _, sums in own]
    lengths = [sum(n * width for n, width in zip(ns, widths, strict=True)) for ns in counts]
    if not max(lengths):
        return [[] for _ in own]
    packed = torch.cat([_packed(rows, sums / world) for rows, sums in own])
    messages = gather_parts(packed, lengths, group)
    parts: list[Parts] = [[] for _ in own]
    for message, ns in zip(messages, counts, strict=True):
        pieces = message.split([n * width for n, width in zip(ns, widths, strict=True)])
        for store, (n, width, piece) in enumerate(zip(ns, widths, pieces, strict=True)):
            if n:
                parts[store].append(_unpacked(piece.view(n, width)))
    return parts


def _packed(rows: Tensor, sums: Tensor) -> Tensor:
    """int64 [n], fp32 [n, D] -> fp32 [n * (2 + D)]: numbers of rows as the bits of two floats each."""
    return torch.cat([rows.contiguous().view(torch.float32).view(-1, _PLACES), sums], dim=1).flatten()


def _unpacked(message: Tensor) -> tuple[Tensor, Tensor]:
    return message[:, :_PLACES].contiguous().view(torch.int64).view(-1), message[:, _PLACES:].contiguous()

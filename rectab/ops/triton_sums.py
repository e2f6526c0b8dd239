"""Gradients summed by row on the device, with no word from the host and no row that one program sums alone.

Under a Zipf law one row may get a tenth of a step's gradients. Sorted by row, the gradients are cut into pieces of at
most ``_PIECE``, each of one row; a row of several pieces is summed again from their sums, in the same way. The order is
that of the lookups throughout, so a step gives the same bits every time.

How many rows are distinct only the device knows, and to ask would be to wait for it. So results are as long as what
came in, and places beyond the distinct rows hold the row -1 and zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectab.ops import triton_rows
from rectab.ops.triton_support import blocks_of, launch

__all__ = ["coalesce"]

_PIECE = 64
_NO_ROW = 2**63 - 1
"""Sorts behind every row."""


def coalesce(pending: Sequence[tuple[Tensor, Tensor]], row_dim: int) -> tuple[Tensor, Tensor]:
    """Distinct rows and the sum of each row's gradients.

    Args:
        pending: (rows int64 [n], gradients [n, D]) of every lookup of the step; rows of -1 are none.
        row_dim: D.

    Returns:
        int64 [n], ascending and then -1, and fp32 [n, D], zeros where the row is -1.
    """
    flat = [rows.reshape(-1).to(torch.int64) for rows, _ in pending]
    rows = flat[0] if len(flat) == 1 else torch.cat(flat)
    gradients = pending[0][1] if len(pending) == 1 else torch.cat([gradients for _, gradients in pending])
    if not rows.numel():
        return rows, torch.zeros(0, row_dim, dtype=torch.float32, device=rows.device)
    keys, order = torch.sort(torch.where(rows < 0, _NO_ROW, rows), stable=True)
    return _sum_sorted(keys, gradients.reshape(-1, row_dim).contiguous(), order)


def _sum_sorted(keys: Tensor, values: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`coalesce`, of sorted keys int64 [n] and the values at ``order`` int64 [n]; None: as they lie."""
    count, row_dim = keys.numel(), values.shape[1]
    position = torch.arange(count, device=keys.device)
    there = keys != _NO_ROW
    head = there & torch.cat([there[:1], keys[1:] != keys[:-1]])
    segment = head.cumsum(0) - 1
    # What is no piece, no head or no part goes behind, each to a place of its own: places that many write are slow.
    behind = count + 2 + position
    # Where each segment begins, by its number: torch's cummax would take longer than all else together.
    begun = position.new_zeros(2 * count + 2)
    begun.scatter_(0, torch.where(head, segment, behind), position)
    within = position - begun[segment.clamp(min=0)]
    piece = there & (within % _PIECE == 0)
    of_many = piece & (within > 0)
    of_many[:-_PIECE] |= piece[:-_PIECE] & (keys[_PIECE:] == keys[:-_PIECE])
    slot = of_many.cumsum(0) - 1
    target = torch.where(of_many, -1 - slot, segment)
    number = torch.where(piece, piece.cumsum(0) - 1, behind)
    begins = there.sum().expand(2 * count + 2).clone().scatter_(0, number, position)
    targets = torch.empty_like(begins).scatter_(0, number, target)
    longest = 2 * count // _PIECE  # pieces of rows of several: at most twice as many as would be full
    sums = torch.zeros(count + longest, row_dim, dtype=torch.float32, device=keys.device)
    partial = torch.zeros(longest, row_dim, dtype=torch.float32, device=keys.device)
    _sum_pieces(values, order, begins, targets, count, sums, partial)
    rows = keys.new_full((2 * count + 2,), -1).scatter_(0, torch.where(head, segment, behind), keys)
    if count > _PIECE:
        again = keys.new_full((2 * count + 2 + longest,), _NO_ROW)
        again.scatter_(0, torch.where(of_many, slot, longest + behind - 2), segment)
        owners, whole = _sum_sorted(again[:longest], partial, None)
        sums.index_copy_(0, torch.where(owners < 0, count + position[:longest], owners), whole)
    return rows[:count], sums[:count]


def _sum_pieces(
    values: Tensor, order: Tensor | None, begins: Tensor, targets: Tensor, count: int, sums: Tensor, partial: Tensor
) -> None:
    row_dim = values.shape[1]
    arguments = (values, row_dim, begins if order is None else order, begins, targets, count, sums, partial)
    launch(triton_rows.sum_pieces, count, blocks_of(row_dim), *arguments, ORDERED=order is not None)

"""A partition of ids into parts: of any id, which part it is in and its position there, at 2 to 5 bits an id."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rectab.tables.idset import IdSet

__all__ = ["IdPartition"]


class IdPartition(nn.Module):
    """The ids ``0 .. num_ids - 1``, each in one part.

    Every part but one is an :class:`IdSet`. The part whose set would be the largest is not stored: an id in no other
    part is in it, at the position that is left when the ranks in all others are taken off.

    Args:
        num_ids: ids there are.
        sizes: ids of every part; they sum to ``num_ids``.
        device: where the tensors are allocated, unfilled.
    """

    def __init__(self, num_ids: int, sizes: Sequence[int], device: torch.device | str | None = None) -> None:
        super().__init__()
        if sum(sizes) != num_ids:
            raise ValueError(f"the parts hold {sum(sizes)} ids, expected {num_ids}")
        self.implied = _implied(num_ids, sizes)
        self.stored = [part for part in range(len(sizes)) if part != self.implied]
        self.sets = nn.ModuleList(IdSet(num_ids, sizes[part], device=device) for part in self.stored)

    @staticmethod
    def bytes_of(num_ids: int, sizes: Sequence[int]) -> int:
        """Bytes of the tensors, for a partition that is not built."""
        implied = _implied(num_ids, sizes)
        return sum(IdSet.bytes_of(num_ids, size) for part, size in enumerate(sizes) if part != implied)

    def fill(self, parts: Tensor) -> None:
        """Set the part of every id: int [num_ids]."""
        for part, members in zip(self.stored, self.sets, strict=True):
            assert isinstance(members, IdSet)
            members.fill((parts == part).nonzero().squeeze(1))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [*] -> (part int64 [*], position in it int64 [*])."""
        part, position, left = torch.full_like(ids, self.implied), ids, ids
        for index, members in zip(self.stored, self.sets, strict=True):
            rank, member = members.rank(ids)  # type: ignore[operator]
            left = left - rank
            part = torch.where(member, index, part)
            position = torch.where(member, rank, position)
        return part, torch.where(part == self.implied, left, position)


def _implied(num_ids: int, sizes: Sequence[int]) -> int:
    return max(range(len(sizes)), key=lambda part: IdSet.bytes_of(num_ids, sizes[part]))

"""Ids in any order, sorted into blocks: a bit-packed partition says in which block an id is, and its rank there.

Few ids are frequent, so blocks differ in size, and a number for every id that tells all blocks apart would be wide. The
ids of the first, small blocks are therefore one class at first; the next level says which block each of them is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from rectab.ops.dispatch import is_eager
from rectab.tables.quantized.level import Level, level_bytes

__all__ = ["Partition", "partition_bytes"]

_LEVELS = 2  # at most, through which a frequent id goes; a third saves little


@lru_cache(maxsize=4096)
def _cheapest(sizes: tuple[int, ...], levels: int) -> tuple[int, int]:
    """(bytes, how many of the first blocks the next level has): 0 where there is none."""
    best = (level_bytes(sum(sizes), len(sizes)), 0)
    if levels > 1:
        for inner in range(2, len(sizes)):
            held = level_bytes(sum(sizes), 1 + len(sizes) - inner) + _cheapest(sizes[:inner], levels - 1)[0]
            best = min(best, (held, inner))
    return best


def partition_bytes(sizes: Sequence[int]) -> int:
    """Bytes of a :class:`Partition` into blocks of so many ids; none for one block."""
    return 0 if len(sizes) == 1 else _cheapest(tuple(sizes), _LEVELS)[0]


class Partition(nn.Module):
    """Maps ids to positions: the blocks one after another, ids in rising order within each.

    Memory: two to three bits an id where blocks grow by a factor.

    Args:
        sizes: ids of each block, at least two.
        device: where it is built.
        levels: at most.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device | str = "cpu", levels: int = _LEVELS) -> None:
        super().__init__()
        self.first_blocks = _cheapest(tuple(sizes), levels)[1]
        first, rest = sizes[: self.first_blocks], sizes[self.first_blocks :]
        self.outer = Level([sum(first), *rest] if first else rest, device)
        self.inner = Partition(first, device, levels - 1) if first else None

    def fill(self, block_of: np.ndarray) -> None:
        """Hold this partition: int [num_ids], the block of every id. Raises ValueError where sizes differ."""
        if self.inner is None:
            self.outer.fill(block_of)
        else:
            self.outer.fill(np.maximum(block_of - self.first_blocks + 1, 0))
            self.inner.fill(block_of[block_of < self.first_blocks])

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [m] ids, each in ``0 .. num_ids - 1`` -> int64 [m] positions."""
        positions = self.outer(ids)
        if self.inner is None:
            return positions
        end = self.outer.sizes[0]
        if not is_eager(ids):
            return torch.where(positions < end, self.inner(positions.clamp(max=end - 1)), positions)
        first = (positions < end).nonzero().squeeze(1)
        positions[first] = self.inner(positions[first])
        return positions

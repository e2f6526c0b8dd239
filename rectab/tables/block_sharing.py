"""Which blocks of a table are alike: found by hashing, so that no block is compared with every other.

L2-LSH (Datar et al., "Locality-Sensitive Hashing Scheme Based on p-Stable Distributions", SCG 2004): a random line is
cut into intervals; blocks near each other fall into the same interval on several lines more often than others do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops import mix

__all__ = ["leaders_of"]

_LINES = 4  # that blocks must agree on to be compared
_WIDTH = 4.0  # of an interval, in radii
_GROWTH = 1.2  # of the radius, from round to round
_SAMPLED = 1024
_BLOCKS_AT_A_TIME = 1 << 14


def leaders_of(blocks: Tensor, keep: int, seed: int = 0) -> Tensor:
    """int64 [n]: for every block, the one that takes its place; exactly ``keep`` blocks take their own.

    In rounds of a growing radius, blocks that fall together are compared with the first of them, and those within the
    radius give way to it; in the last round the nearest do.

    Args:
        blocks: float [n, w].
        keep: 1 to n.
        seed: of the lines.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.arange(blocks.shape[0], device=blocks.device)
    leader = kept.clone()
    radius = _first_radius(blocks, generator)
    while kept.numel() > keep:
        first, distance = _compared(blocks[kept], radius, generator)
        gone = (distance <= radius) & (first != torch.arange(kept.numel(), device=kept.device))
        surplus = kept.numel() - keep
        if int(gone.sum()) > surplus:
            nearest = distance.masked_fill(~gone, torch.inf).argsort(stable=True)[:surplus]
            gone = torch.zeros_like(gone).index_fill(0, nearest, True)
        leader[kept[gone]] = kept[first[gone]]
        kept, radius = kept[~gone], radius * _GROWTH
    while not torch.equal(leader, leader[leader]):
        leader = leader[leader]
    return leader


def _first_radius(blocks: Tensor, generator: torch.Generator) -> float:
    """A hundredth of the usual distance of two blocks."""
    some = blocks[torch.randint(blocks.shape[0], (2, _SAMPLED), generator=generator).to(blocks.device)].float()
    return max(float((some[0] - some[1]).norm(dim=1).mean()) / 100, 1e-12)


def _compared(blocks: Tensor, radius: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(int64 [n], float [n]): the first block that falls where a block does, and how far that one is."""
    lines = torch.randn(blocks.shape[1], _LINES, generator=generator).to(blocks.device)
    starts = torch.rand(_LINES, generator=generator).to(blocks.device)
    interval = (blocks.float() @ lines / (_WIDTH * radius) + starts).floor().to(torch.int64)
    keys = mix(interval, torch.arange(_LINES, device=blocks.device)).sum(1)
    _, bucket = keys.unique(return_inverse=True)
    numbers = torch.arange(blocks.shape[0], device=blocks.device)
    firsts = torch.full_like(numbers, blocks.shape[0]).scatter_reduce(0, bucket, numbers, "amin")
    first = firsts[bucket]
    pieces = zip(blocks.split(_BLOCKS_AT_A_TIME), first.split(_BLOCKS_AT_A_TIME), strict=True)
    return first, torch.cat([(part - blocks[at]).float().norm(dim=1) for part, at in pieces])

"""Blocks: ranges of a vocabulary's ids, the most frequent first, that are held in one encoding each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Block", "finest_blocks", "first_alone"]

SMALL = 48
"""Vocabularies of at most so many ids are one block: a second one costs more than it brings."""

_FEWEST = 12  # ids of a block
FACTOR = 4.0  # by which the traffic of a block's ids may differ: one bit of precision


@dataclass(frozen=True, order=True)
class Block:
    """Ids ``first .. last - 1`` of a vocabulary.

    Attributes:
        vocabulary: its index in the schema.
        first, last: the first id, and the one after the last.
    """

    vocabulary: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def joined(self, following: Block) -> Block:
        """This block and the one that follows it."""
        return Block(self.vocabulary, self.first, following.last)


def finest_blocks(vocabulary: int, traffic: np.ndarray, factor: float = FACTOR) -> list[Block]:
    """The blocks that a vocabulary can be cut into; neighbours are joined where that is worth more.

    The best precision of an id follows from the logarithm of its traffic (half a bit for every factor of two), so a
    block ends where traffic has fallen by a factor of four. Where an id costs bytes in whatever encoding, a smaller
    factor may pay: which ids are worth any bytes then matters more.

    Args:
        vocabulary: its index.
        traffic: float64 [n], expected lookups of every id, roughly falling; the first id may have any.
        factor: by which the traffic of a block's ids may differ.
    """
    size = len(traffic)
    borders = [0]
    if size > SMALL:
        level = np.maximum.accumulate(traffic[1:][::-1])[::-1]  # falling, whatever traffic does
        while True:
            start = borders[-1]
            floor = level[min(start, size - 2)] / factor
            border = max(int(np.searchsorted(-level, -floor, side="right")) + 1, start + _FEWEST)
            if size - border < _FEWEST:
                break
            borders.append(border)
    return [Block(vocabulary, first, last) for first, last in zip(borders, [*borders[1:], size], strict=True)]


def first_alone(parts: Sequence[Block]) -> list[Block]:
    """Blocks of a vocabulary with id 0 in one of its own."""
    first = parts[0]
    if len(first) == 1:
        return list(parts)
    return [replace(first, last=1), replace(first, first=1), *parts[1:]]

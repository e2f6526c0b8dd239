"""Allocations of a fixed shape, as people make them by hand: what an allocator has to beat at the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Bits, Encoding, Shared
from rectab.quantize.options import OptionTable

__all__ = ["INT8", "threshold", "uniform"]

INT8 = Bits(8)


def uniform(table: OptionTable, budget: int, encoding: Encoding = INT8) -> Allocation | None:
    """Every vocabulary in one encoding; None if that takes more than ``budget`` bytes."""
    blocks = [Block(index, 0, len(vectors)) for index, vectors in enumerate(table.vectors)]
    return _within(table, blocks, [encoding] * len(blocks), budget)


def threshold(
    table: OptionTable, counts: Sequence[np.ndarray], budget: int, encoding: Encoding = INT8
) -> Allocation | None:
    """Ids seen at least k times in one encoding, the others one shared row a vocabulary; None if nothing fits.

    k is the least that fits into the budget. Each vocabulary keeps its first id, whatever its count.

    Args:
        table: of the vectors; its options are not asked for.
        counts: int64 [n] of every vocabulary, training lookups, falling from the second id on.
        budget: bytes of all blocks, headers included.
        encoding: of the ids that are kept.
    """
    tried = np.unique(np.concatenate([[1], *(c[1:] + 1 for c in counts)]))
    low, high = 0, len(tried) - 1  # bytes fall as k rises
    if _bytes(table, *_cut(counts, int(tried[high]), encoding)) > budget:
        return None
    while low < high:
        middle = (low + high) // 2
        fits = _bytes(table, *_cut(counts, int(tried[middle]), encoding)) <= budget
        low, high = (low, middle) if fits else (middle + 1, high)
    return _within(table, *_cut(counts, int(tried[low]), encoding), budget)


def _cut(counts: Sequence[np.ndarray], least: int, encoding: Encoding) -> tuple[list[Block], list[Encoding]]:
    """Blocks of the ids seen ``least`` times and more, and of the others."""
    blocks: list[Block] = []
    encodings: list[Encoding] = []
    for index, held in enumerate(counts):
        border = 1 + int(np.searchsorted(-held[1:], -least, side="right"))
        blocks.append(Block(index, 0, border))
        encodings.append(encoding)
        if border < len(held):
            blocks.append(Block(index, border, len(held)))
            encodings.append(Shared())
    return blocks, encodings


def _bytes(table: OptionTable, blocks: Sequence[Block], encodings: Sequence[Encoding]) -> int:
    return sum(table.bytes(block, encoding) for block, encoding in zip(blocks, encodings, strict=True))


def _within(
    table: OptionTable, blocks: Sequence[Block], encodings: Sequence[Encoding], budget: int
) -> Allocation | None:
    size = _bytes(table, blocks, encodings)
    return (
        Allocation(tuple(blocks), tuple(encodings), _errors(table, blocks, encodings), size) if size <= budget else None
    )


def _errors(table: OptionTable, blocks: Sequence[Block], encodings: Sequence[Encoding]) -> np.ndarray:
    return np.array([table.error(block, encoding) for block, encoding in zip(blocks, encodings, strict=True)])

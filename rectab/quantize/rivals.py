"""Allocations of a fixed shape, as people make them by hand: what an allocator has to beat at the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rectab.quantize.allocate import Allocation, allocate
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Bits, Encoding, Rare, Shared
from rectab.quantize.options import OptionTable

__all__ = ["INT8", "RIVALS", "SMALLEST", "Shape", "allocate_shape", "smallest_rival", "threshold", "uniform"]

Shape = Literal["best", "int8", "threshold"]
"""``best``: what errs least. The rivals are ``int8``, every id in int8, and ``threshold``, ids seen k times and more
in int8, the rest one shared row."""

RIVALS: tuple[Shape, ...] = ("int8", "threshold")

SMALLEST: dict[Shape, str] = {
    "best": "a shared vector a vocabulary",
    "int8": "int8 for every id",
    "threshold": "an int8 row and a shared one a vocabulary",
}
"""What the smallest table of a shape is, for errors."""

INT8 = Bits(8)


def allocate_shape(
    shape: Shape,
    table: OptionTable,
    blocks: Sequence[Sequence[Block]],
    counts: Sequence[np.ndarray],
    budget: int,
) -> Allocation | None:
    """The allocation of a shape within ``budget`` bytes, headers included; None if there is none.

    Args:
        shape: which.
        table: of the vectors.
        blocks: the finest blocks of every vocabulary, for ``best``.
        counts: as for :func:`threshold`.
        budget: bytes of all blocks.
    """
    if shape == "int8":
        return uniform(table, budget)
    return threshold(table, counts, budget) if shape == "threshold" else allocate(table, blocks, budget)


def uniform(table: OptionTable, budget: int, encoding: Encoding = INT8) -> Allocation | None:
    """Every vocabulary in one encoding; None if that takes more than ``budget`` bytes."""
    blocks = [Block(index, 0, len(vectors)) for index, vectors in enumerate(table.vectors)]
    return _within(table, blocks, [encoding] * len(blocks), budget)


def threshold(
    table: OptionTable, counts: Sequence[np.ndarray], budget: int, encoding: Encoding = INT8
) -> Allocation | None:
    """Ids seen at least k times in one encoding, the others one shared row a vocabulary; None if nothing fits.

    k is the least that fits into the budget. Each vocabulary keeps its first id, whatever its count. Where the map from
    raw values to ids is counted, the shared row is that of the first id, and the ids that read it leave the map.

    Args:
        table: of the vectors; its options are not asked for.
        counts: int64 [n] of every vocabulary, training lookups, roughly falling from the second id on: an id is kept if
            one behind it is.
        budget: bytes of all blocks, headers included.
        encoding: of the ids that are kept.
    """
    rest = Rare() if table.counts_ids else Shared()
    counts = [np.r_[held[:1], np.maximum.accumulate(held[:0:-1])[::-1]] for held in counts]

    def cut(least: int) -> tuple[list[Block], list[Encoding]]:
        return _cut(counts, least, encoding, rest)

    tried = np.unique(np.concatenate([[1], *(c[1:] + 1 for c in counts)]))
    low, high = 0, len(tried) - 1  # bytes fall as k rises
    if _bytes(table, *cut(int(tried[high]))) > budget:
        return None
    while low < high:
        middle = (low + high) // 2
        fits = _bytes(table, *cut(int(tried[middle]))) <= budget
        low, high = (low, middle) if fits else (middle + 1, high)
    return _within(table, *cut(int(tried[low])), budget)


def smallest_rival(table: OptionTable, shape: Shape) -> int:
    """Bytes of the smallest allocation of a rival's shape, headers included."""
    if shape == "int8":
        blocks = [Block(index, 0, len(vectors)) for index, vectors in enumerate(table.vectors)]
        return _bytes(table, blocks, [INT8] * len(blocks))
    rest = Rare() if table.counts_ids else Shared()
    none = [np.zeros(len(vectors), np.int64) for vectors in table.vectors]
    return _bytes(table, *_cut(none, 1, INT8, rest))


def _cut(
    counts: Sequence[np.ndarray], least: int, encoding: Encoding, rest: Encoding
) -> tuple[list[Block], list[Encoding]]:
    """Blocks of the ids seen ``least`` times and more, and of the others."""
    blocks: list[Block] = []
    encodings: list[Encoding] = []
    for index, held in enumerate(counts):
        border = 1 + int(np.searchsorted(-held[1:], -least, side="right"))
        blocks.append(Block(index, 0, border))
        encodings.append(encoding)
        if border < len(held):
            blocks.append(Block(index, border, len(held)))
            encodings.append(rest)
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

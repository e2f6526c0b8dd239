"""Shaver: one trained table, cut to any budget without further training, by what each part of it is worth.

Tran et al., "On-device Content-based Recommendation with Single-shot Embedding Pruning: A Cooperative Game
Perspective", WWW 2025. The parts are (vocabulary, dimension) blocks. What a block is worth is its
Shapley value: the loss that its absence adds, on average over the orders in which blocks may go. Blocks of the least
value go; what is read in their place is the vocabulary's mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register
from rectab.tables.shaver.serving import CompactShaverConfig, CompactShaverTable, limits
from rectab.tables.shaver.table import ShaverConfig, ShaverTable

__all__ = ["CompactShaverConfig", "CompactShaverTable", "ShaverConfig", "ShaverTable"]


def shaver_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, *, permutations: int = 8
) -> Family[ShaverConfig]:
    """By bytes; all blocks without a budget."""
    low, high = limits(vocabularies, embedding_dim, options)
    return Family(
        lambda size: ShaverConfig(size, permutations),
        low=low,
        high=high,
        own=lambda: ShaverConfig(None, permutations),
        smallest="one dimension of the smallest vocabulary, and a mean for each",
    )


register(
    TableMethod(
        name="shaver",
        summary="a trained full table without the dimensions that the loss misses least",
        paper="Tran et al., WWW 2025",
        group="pruning",
        config=ShaverConfig,
        table=ShaverTable,
        family=shaver_family,
        fills="steps",
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
    )
)
register(TableMethod("shaver.compact", "kept dimensions, and means", CompactShaverConfig, CompactShaverTable))

"""Deduplication: blocks of rows of a trained table that are alike are held once, and trained on.

Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases", VLDB 2022, as the VLDB 2024
benchmark applies it to embeddings: train the full table, find similar blocks by L2-LSH
(:mod:`rectab.tables.block_sharing`), share them, fine-tune. Served are the blocks that are left, as many as a budget
holds, and for every block of ids which it reads. Ids are numbered by frequency, so a block has ids that are seen about
equally often, and the blocks of rare ids, which training hardly moves, are alike.
"""

from __future__ import annotations

from rectab.tables.dedup.config import DedupConfig, SharedBlocksConfig, dedup_family
from rectab.tables.dedup.serving import SharedBlocksTable
from rectab.tables.dedup.table import DedupTable
from rectab.tables.registry import TableMethod, register

__all__ = ["DedupConfig", "DedupTable", "SharedBlocksConfig", "SharedBlocksTable"]

register(TableMethod("dedup.shared", "blocks that are held once", SharedBlocksConfig, SharedBlocksTable))
register(
    TableMethod(
        name="dedup",
        summary="blocks of a trained table that are alike, held once",
        group="dynamic encoding",
        paper="Zhou et al., VLDB 2022",
        config=DedupConfig,
        table=DedupTable,
        family=dedup_family,
        fills="steps",
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

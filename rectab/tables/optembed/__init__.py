"""OptEmbed: which rows a table needs, and how wide, learned in a supernet and searched by evolution.

Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction", CIKM 2022. With a budget,
rows and widths are chosen to fill it (:mod:`rectab.tables.optembed.sizing`); without one this is the paper's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.optembed.config import CompactOptEmbedConfig, OptEmbedConfig
from rectab.tables.optembed.serving import CompactOptEmbedTable
from rectab.tables.optembed.sizing import largest_bytes, smallest_bytes
from rectab.tables.optembed.table import OptEmbedTable
from rectab.tables.registry import TableMethod, register

__all__ = ["CompactOptEmbedConfig", "CompactOptEmbedTable", "OptEmbedConfig", "OptEmbedTable"]


def optembed_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[OptEmbedConfig]:
    """By the bytes that rows and widths are chosen to fill."""
    own = OptEmbedConfig(**settings)
    arguments = (vocabularies, embedding_dim, own, options)
    return Family(
        lambda size: replace(own, budget_bytes=size),
        low=smallest_bytes(*arguments),
        high=largest_bytes(*arguments),
        own=lambda: own,
    )


register(
    TableMethod(
        name="optembed",
        summary="learned row thresholds and searched widths",
        group="dimension reduction",
        paper="Lyu et al., CIKM 2022",
        config=OptEmbedConfig,
        table=OptEmbedTable,
        family=optembed_family,
        learns_from_validation=True,
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
        revision=2,  # 2: a budget compares vocabularies by their scales; the search follows the seed of the run
    )
)

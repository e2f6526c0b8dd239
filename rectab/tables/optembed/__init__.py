"""OptEmbed: which rows a table needs, and how wide, learned in a supernet and searched by evolution.

Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction", CIKM 2022. With a budget,
rows and widths are chosen to fill it (:mod:`rectab.tables.optembed.sizing`); without one this is the paper's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.optembed.config import CompactOptEmbedConfig, OptEmbedConfig
from rectab.tables.optembed.serving import CompactOptEmbedTable
from rectab.tables.optembed.sizing import smallest_bytes
from rectab.tables.optembed.table import OptEmbedTable
from rectab.tables.registry import InfeasibleBudget, TableMethod, register

__all__ = ["CompactOptEmbedConfig", "CompactOptEmbedTable", "OptEmbedConfig", "OptEmbedTable"]


def plan_optembed(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    budget_bytes: int | None,
    options: TableOptions,
    **settings: Any,
) -> OptEmbedConfig:
    """The config that learns a table within the budget. Raises InfeasibleBudget if not even one row fits it."""
    config = OptEmbedConfig(budget_bytes, **settings)
    if budget_bytes is not None:
        smallest = smallest_bytes(vocabularies, embedding_dim, config, options)
        if smallest > budget_bytes:
            raise InfeasibleBudget("optembed", budget_bytes, smallest)
    return config


register(
    TableMethod(
        name="optembed",
        summary="learned row thresholds and searched widths",
        paper="Lyu et al., CIKM 2022",
        config=OptEmbedConfig,
        table=OptEmbedTable,
        plan=plan_optembed,
        any_budget=True,
        revision=2,  # 2: a budget compares vocabularies by their scales; the search follows the seed of the run
        staged=True,
        full_table_to_train=True,
        hashed_vocabularies=False,
        shardable=False,
    )
)

"""DNIS: which dimensions ids of similar frequency need, learned by gradient descent on validation batches.

Cheng, Shen, Huang, "Differentiable Neural Input Search for Recommender Systems", 2020. With a budget, what the search
left is pruned to it (:mod:`rectab.tables.dnis.pruning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.dnis.config import DNISConfig, SparseDNISConfig, StructuredDNISConfig
from rectab.tables.dnis.pruning import smallest_bytes
from rectab.tables.dnis.serving import SparseDNISTable, StructuredDNISTable
from rectab.tables.dnis.table import DNISTable
from rectab.tables.registry import InfeasibleBudget, TableMethod, register

__all__ = [
    "DNISConfig",
    "DNISTable",
    "SparseDNISConfig",
    "SparseDNISTable",
    "StructuredDNISConfig",
    "StructuredDNISTable",
]


def plan_dnis(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    budget_bytes: int | None,
    options: TableOptions,
    **settings: Any,
) -> DNISConfig:
    """The config that learns a table within the budget.

    Raises:
        InfeasibleBudget: not even one entry fits the budget.
        ValueError: a vocabulary has no training counts.
    """
    config = DNISConfig(budget_bytes, **settings)
    uncounted = [v.name for v in vocabularies if v.counts is None]
    if uncounted and len(config.blocks) > 1:
        raise ValueError(f"dnis needs training counts to sort ids into blocks; vocabularies {uncounted} have none")
    if budget_bytes is not None:
        smallest = smallest_bytes(vocabularies, embedding_dim, config, options)
        if smallest > budget_bytes:
            raise InfeasibleBudget("dnis", budget_bytes, smallest)
    return config


register(
    TableMethod(
        name="dnis",
        summary="learned selection of dimensions for blocks of ids by frequency",
        paper="Cheng et al., 2020",
        config=DNISConfig,
        table=DNISTable,
        plan=plan_dnis,
        any_budget=True,
        staged=True,
        full_table_to_train=True,
        needs_counts=True,
        hashed_vocabularies=False,
        shardable=False,
    )
)

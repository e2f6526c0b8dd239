"""DNIS: which dimensions ids of similar frequency need, learned by gradient descent on validation batches.

Cheng, Shen, Huang, "Differentiable Neural Input Search for Recommender Systems", 2020. With a budget, what the search
left is pruned to it (:mod:`rectab.tables.dnis.pruning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.dnis.config import DNISConfig, SparseDNISConfig, StructuredDNISConfig
from rectab.tables.dnis.pruning import largest_bytes, smallest_bytes
from rectab.tables.dnis.serving import SparseDNISTable, StructuredDNISTable
from rectab.tables.dnis.table import DNISTable
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register

__all__ = [
    "DNISConfig",
    "DNISTable",
    "SparseDNISConfig",
    "SparseDNISTable",
    "StructuredDNISConfig",
    "StructuredDNISTable",
]


def dnis_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[DNISConfig]:
    """By the bytes that the search is pruned to."""
    own = DNISConfig(**settings)
    arguments = (vocabularies, embedding_dim, own, options)
    return Family(
        lambda size: replace(own, budget_bytes=size),
        low=smallest_bytes(*arguments),
        high=largest_bytes(*arguments),
        own=lambda: own,
    )


register(
    TableMethod(
        name="dnis",
        summary="learned selection of dimensions for blocks of ids by frequency",
        group="pruning",
        paper="Cheng et al., 2020",
        config=DNISConfig,
        table=DNISTable,
        family=dnis_family,
        learns_from_validation=True,
        size_after_training=True,
        needs_own_trainer=True,
        needs_counts=True,
        needs_full_table=True,
    )
)

"""AutoDim: how wide the rows of every vocabulary are, learned as a soft choice among a few widths.

Zhao et al., "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems", WWW 2021. Candidates of a
vocabulary are the first d dimensions of one row (the paper's weight sharing), each made D wide by a matrix of its own
and brought to one size. What is read is their mean under a Gumbel softmax of learned logits, whose temperature falls.
Steps of the table on training batches and of the logits on validation batches take turns (DARTS, first order). Then the
chosen widths are trained from scratch, as :mod:`rectab.tables.mde` holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rectab.schema import Vocabulary
from rectab.tables.autodim.config import AutoDimConfig, CompactAutoDimTable
from rectab.tables.autodim.table import AutoDimTable, size_range
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register

__all__ = ["AutoDimConfig", "AutoDimTable", "CompactAutoDimTable"]


def autodim_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[AutoDimConfig]:
    """By the bytes of the widths that are chosen."""
    own = AutoDimConfig(**settings)
    low, high = size_range(AutoDimTable(vocabularies, embedding_dim, own, replace(options, device="meta")))
    return Family(
        lambda size: replace(own, budget_bytes=size), low=low, high=high, own=lambda: own, smallest="the narrowest rows"
    )


register(
    TableMethod(
        name="autodim",
        summary="the width of every vocabulary, learned as a soft choice",
        group="dimension reduction",
        paper="Zhao et al., WWW 2021",
        config=AutoDimConfig,
        table=AutoDimTable,
        family=autodim_family,
        fills="steps",
        learns_from_validation=True,
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

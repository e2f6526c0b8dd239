"""The full table: one row an id. What every other method is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import InfeasibleBudget, TableMethod, build_table, register

__all__ = ["FullConfig", "FullTable"]


@dataclass(frozen=True)
class FullConfig:
    """The full table has nothing to choose."""


class FullTable(RangeTable[FullConfig]):
    """One row for every id of every fitted vocabulary.

    An id outside its vocabulary raises IndexError: nothing is clamped.

    Memory: (sum of num_embeddings) * (bytes of a row), and a first row and a number of rows per vocabulary.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: FullConfig,
        options: TableOptions | None = None,
    ) -> None:
        hashed = [v.name for v in vocabularies if v.hashed]
        if hashed:
            raise ValueError(
                f"full: vocabularies {hashed} are hashed, they have no closed set of ids; use another table"
            )
        super().__init__(vocabularies, embedding_dim, config, options, [v.num_embeddings for v in vocabularies], 0)


def plan_full(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, budget_bytes: int | None, options: TableOptions
) -> FullConfig:
    """The one config there is. Raises InfeasibleBudget if it does not fit the budget."""
    if budget_bytes is not None:
        config = FullConfig()
        needed = build_table("full", vocabularies, embedding_dim, config, options).ledger().bytes
        if needed > budget_bytes:
            raise InfeasibleBudget("full", budget_bytes, needed)
    return FullConfig()


register(
    TableMethod(
        name="full",
        summary="one row an id",
        paper="",
        config=FullConfig,
        table=FullTable,
        plan=plan_full,
        any_budget=False,
        hashed_vocabularies=False,
    )
)

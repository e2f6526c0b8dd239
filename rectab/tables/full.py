"""The full table: one row an id. What every other method is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

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
        super().__init__(vocabularies, embedding_dim, config, options, [v.num_embeddings for v in vocabularies], 0)


register(
    TableMethod(
        name="full",
        summary="one row an id",
        group="reference",
        config=FullConfig,
        table=FullTable,
        family=lambda vocabularies, embedding_dim, options: Family(lambda _: FullConfig(), 0, 0),
        fills="one",
    )
)

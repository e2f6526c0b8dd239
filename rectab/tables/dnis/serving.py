"""What DNIS is served as: blocks without the dimensions they lost, or single kept entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.compact import CompactTable, RaggedRows, index_dtype
from rectab.tables.dnis.config import SparseDNISConfig, StructuredDNISConfig
from rectab.tables.entries import EntriesTable
from rectab.tables.partition import IdPartition
from rectab.tables.registry import TableMethod, register

__all__ = ["SparseDNISTable", "StructuredDNISTable", "structured_bytes"]


class StructuredDNISTable(CompactTable[StructuredDNISConfig]):
    """The kept dimensions of every block of ids, densely. Ids of a block that keeps none give zeros.

    Memory: sum over blocks of ids * (bytes of a row of the kept dimensions), which block every id is in (2 to 5 bits an
    id), and D small integers a block.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: StructuredDNISConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        sizes = _parts(self.num_ids, config)
        self.blocks = IdPartition(self.num_ids, sizes, device=self.options.device)
        self.rows = RaggedRows(config.num_rows, config.columns, embedding_dim, self.options)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        block, position = self.blocks(self.number_ids(ids, vocabulary))
        kept = block < len(self.config.num_rows)
        return self.rows(block.where(kept, 0), position, kept)

    @torch.no_grad()
    def fill(self, blocks: Tensor, rows: Tensor) -> None:
        """Take the rows of a full table.

        Args:
            blocks: int [N]: for every id the position of its block among those kept; anything larger for the others.
            rows: [N, D].
        """
        kept = len(self.config.num_rows)
        self.blocks.fill(blocks.clamp(max=kept))
        for block in range(kept):
            self.rows.fill(block, rows[blocks == block])
        self.rows.fit_steps()


class SparseDNISTable(EntriesTable[SparseDNISConfig]):
    """The largest entries of the merged table."""


def structured_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: StructuredDNISConfig, options: TableOptions
) -> int:
    """Bytes of :class:`StructuredDNISTable`, without building it: pruning asks for every dimension of every block."""
    num_ids = sum(v.num_embeddings for v in vocabularies)
    return (
        (len(vocabularies) + 1) * index_dtype(num_ids).itemsize
        + IdPartition.bytes_of(num_ids, _parts(num_ids, config))
        + RaggedRows.bytes_of(config.num_rows, config.columns, embedding_dim, options)
    )


def _parts(num_ids: int, config: StructuredDNISConfig) -> list[int]:
    """Ids of every kept block, and of all others together."""
    return [*config.num_rows, num_ids - sum(config.num_rows)]


register(TableMethod("dnis.structured", "dimensions of blocks of ids", StructuredDNISConfig, StructuredDNISTable))
register(TableMethod("dnis.sparse", "single entries", SparseDNISConfig, SparseDNISTable))

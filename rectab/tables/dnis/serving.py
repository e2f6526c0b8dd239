"""What DNIS is served as: blocks without the dimensions they lost, or single kept entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.compact import CompactTable, RaggedRows, gather_present, index_dtype
from rectab.tables.dnis.config import SparseDNISConfig, StructuredDNISConfig
from rectab.tables.idset import IdSet
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


class SparseDNISTable(CompactTable[SparseDNISConfig]):
    """Single entries of the full table.

    Entries are numbered row by row, and their numbers are an :class:`IdSet`: a compressed sparse row layout whose
    column indexes and row pointers take 1.125 bits an entry of the full table, or 8 or 16 bits a kept entry and next to
    nothing else, whichever is less (an ordinary one takes 32 bits a kept entry and 32 a row).

    Memory: num_entries * (bytes of a row of one element), and that set.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: SparseDNISConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        device = self.options.device
        self.entries = IdSet(self.num_ids * embedding_dim, config.num_entries, span=embedding_dim, device=device)
        self.store = self.options.row_store(config.num_entries, 1, init_std=0.0)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        dim = self.embedding_dim
        first = self.number_ids(ids, vocabulary) * dim
        if torch.compiler.is_compiling():
            return self._lookup_in_fixed_shapes(first)
        place, rank = self.entries.list_between(first.reshape(-1), dim)
        vectors = self.store.new_zeros(ids.numel() * dim)
        return vectors.index_copy(0, place, self.store(rank).squeeze(-1)).view(*ids.shape, dim)

    def _lookup_in_fixed_shapes(self, first: Tensor) -> Tensor:
        """As :meth:`lookup`, given every id's first entry, in shapes that do not depend on the ids: for exports."""
        dim = self.embedding_dim
        rank, column, present = self.entries.between(first, dim)
        values = gather_present(self.store, rank, present).squeeze(-1)
        # Empty slots go to a column of their own, which is cut off.
        vectors = torch.zeros(*first.shape, dim + 1, dtype=values.dtype, device=values.device)
        return vectors.scatter(-1, column.where(present, dim), values)[..., :dim]

    @torch.no_grad()
    def fill(self, entries: Tensor, rows: Tensor) -> None:
        """Take entries, int64 [num_entries] ascending, of a full table [N, D]."""
        self.entries.fill(entries)
        self.store.write(slice(0, entries.numel()), rows.reshape(-1)[entries].unsqueeze(1))


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

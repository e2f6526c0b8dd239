"""What OptEmbed is served as: kept rows only, each as wide as its vocabulary was found to need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.compact import CompactTable, RaggedRows, index_dtype
from rectab.tables.idset import IdSet
from rectab.tables.optembed.config import CompactOptEmbedConfig
from rectab.tables.registry import TableMethod, register

__all__ = ["CompactOptEmbedTable", "compact_bytes"]


class CompactOptEmbedTable(CompactTable[CompactOptEmbedConfig]):
    """The kept rows of every vocabulary, at its width; a pruned id gives zeros or its vocabulary's shared vector.

    Memory: sum over vocabularies of rows * (bytes of a row of its width), the set of kept ids (at most 1.125 bits an
    id), and a few integers a vocabulary. Shared vectors are one more row a vocabulary.
    """

    first_rank: Tensor
    shared_row: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CompactOptEmbedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if not all(0 <= width <= embedding_dim for width in config.widths):
            raise ValueError(f"optembed.compact: widths must be in 0..{embedding_dim}, got {config.widths}")
        device = self.options.device
        self.kept = IdSet(self.num_ids, sum(config.num_rows), device=device)
        first = torch.tensor([0, *accumulate(config.num_rows[:-1])]).to(index_dtype(self.num_ids))
        self.register_buffer("first_rank", first.to(device))
        self.rows = RaggedRows(*_groups(config), embedding_dim, self.options)
        if config.pruned == "shared":
            self.register_buffer("shared_row", torch.tensor(config.num_rows).to(first.dtype).to(device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rank, kept = self.kept.rank(self.number_ids(ids, vocabulary))
        position = rank - self.first_rank[vocabulary]
        if self.config.pruned == "shared":
            position = torch.where(kept, position, self.shared_row[vocabulary])
            kept = torch.ones_like(kept)
        return self.rows(vocabulary.expand(ids.shape), position, kept)

    @torch.no_grad()
    def fill(self, kept: Tensor, rows: RowStore, shared: RowStore | None) -> None:
        """Take the kept rows of a full table.

        Args:
            kept: bool [N], ids of all vocabularies in schema order.
            rows: of N rows.
            shared: of V rows, for ``pruned="shared"``.
        """
        members = kept.nonzero().squeeze(1)
        self.kept.fill(members)
        for index, part in enumerate(members.split(list(self.config.num_rows))):
            vectors = rows.read(part)
            if shared is not None:
                vectors = torch.cat([vectors, shared.read(slice(index, index + 1))])
            if vectors.shape[0]:
                self.rows.fill(index, vectors)
        self.rows.fit_steps()


def compact_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: CompactOptEmbedConfig, options: TableOptions
) -> int:
    """Bytes of :class:`CompactOptEmbedTable`, without building it."""
    num_ids = sum(v.num_embeddings for v in vocabularies)
    integers = (len(vocabularies) * (3 if config.pruned == "shared" else 2) + 1) * index_dtype(num_ids).itemsize
    return (
        integers
        + IdSet.bytes_of(num_ids, sum(config.num_rows))
        + RaggedRows.bytes_of(*_groups(config), embedding_dim, options)
    )


def _groups(config: CompactOptEmbedConfig) -> tuple[list[int], list[range]]:
    """Rows and columns of every vocabulary."""
    extra = 1 if config.pruned == "shared" else 0
    return [rows + extra for rows in config.num_rows], [range(width) for width in config.widths]


register(TableMethod("optembed.compact", "kept rows, narrowed", CompactOptEmbedConfig, CompactOptEmbedTable))

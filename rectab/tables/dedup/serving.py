"""What deduplication serves: blocks of rows, and which one each block of ids reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.compact import index_dtype
from rectab.tables.dedup.config import SharedBlocksConfig, blocks_of
from rectab.tables.findings import Finding

__all__ = ["SharedBlocksTable"]


class SharedBlocksTable(EmbeddingTable[SharedBlocksConfig]):
    """Blocks of rows, and for every block of ids of every vocabulary which one it reads.

    Memory: kept * block * (bytes of a row), an integer of 1 to 4 bytes a block of ids, and one of 8 a vocabulary.
    """

    combine = "concat"
    first_block: Tensor
    reads_block: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: SharedBlocksConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        self.blocks = blocks_of(self.vocabularies, config.block)
        if config.kept > sum(self.blocks):
            raise ValueError(f"dedup: kept is {config.kept}, but there are {sum(self.blocks)} blocks")
        device = self.options.device
        first = list(accumulate(self.blocks[:-1], initial=0))
        self.register_buffer("first_block", torch.tensor(first, dtype=torch.int64, device=device))
        integer = index_dtype(config.kept)
        self.register_buffer("reads_block", torch.zeros(sum(self.blocks), dtype=integer, device=device))
        rows = config.kept * config.block
        self.store = self.options.row_store(rows, embedding_dim, init_std=0.0, steps="filled")
        self.findings: tuple[Finding, ...] = ()

    def reads(self, ids: Tensor, vocabulary: Tensor) -> list[tuple[RowStore, Tensor]]:
        number = self.first_block[vocabulary] + torch.div(ids, self.config.block, rounding_mode="floor")
        rows = self.reads_block[number].to(torch.int64) * self.config.block + ids % self.config.block
        return [(self.store, rows.unsqueeze(-1))]

    def learned(self) -> tuple[Finding, ...]:
        """Blocks kept by vocabulary, as sharing left them; nothing of a loaded table."""
        return self.findings

    def check_contents(self) -> None:
        """Refuse blocks, from a file, that are not there. Raises ValueError."""
        if not bool(((self.reads_block >= 0) & (self.reads_block < self.config.kept)).all()):
            raise ValueError(f"reads_block names blocks outside 0..{self.config.kept - 1}")

"""Deduplication: blocks of rows of a trained table that are alike are held once, and trained on.

Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases", VLDB 2022, as the VLDB 2024
benchmark applies it to embeddings: train the full table, find similar blocks by L2-LSH
(:mod:`rectab.tables.block_sharing`), share them, fine-tune. Served are the blocks that are left, as many as a budget
holds, and for every block of ids which it reads. Ids are numbered by frequency, so a block has ids that are seen about
equally often, and the blocks of rare ids, which training hardly moves, are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.block_sharing import leaders_of
from rectab.tables.compact import index_dtype
from rectab.tables.family import Family
from rectab.tables.findings import Finding, by_vocabulary
from rectab.tables.ledger import Ledger
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, build_table, register

if TYPE_CHECKING:
    from rectab.tables.staged import StageRunner

__all__ = ["DedupConfig", "DedupTable", "SharedBlocksConfig", "SharedBlocksTable"]


@dataclass(frozen=True)
class SharedBlocksConfig:
    """Attributes:
    kept: blocks there are.
    block: rows of a block.
    """

    kept: int = field(metadata={"planned": True})
    block: int = 8

    def __post_init__(self) -> None:
        if min(self.kept, self.block) < 1:
            raise ValueError(f"dedup: kept and block must be at least 1, got {self}")


@dataclass(frozen=True)
class DedupConfig(SharedBlocksConfig):
    """Attributes:
    fine_tune_epochs: most epochs after sharing; 0 serves the table as it was shared, None takes the trainer's limit.
    """

    fine_tune_epochs: int | None = None


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
        self.blocks = _blocks_of(self.vocabularies, config.block)
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


class DedupTable(RangeTable[DedupConfig]):
    """The full table; :meth:`serving` shares its blocks.

    Memory while training: the full table. Sharing holds two copies of the rows in fp32.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DedupConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        super().__init__(vocabularies, embedding_dim, config, options, sizes, seed=0, learns_steps=False)

    def planned_serving(self) -> Ledger:
        return self._shared(replace(self.options, device="meta")).planned_serving()

    def _shared(self, options: TableOptions) -> SharedBlocksTable:
        config = SharedBlocksConfig(self.config.kept, self.config.block)
        table = build_table("dedup.shared", self.vocabularies, self.embedding_dim, config, options)
        assert isinstance(table, SharedBlocksTable)
        return table

    def bytes_between_stages(self) -> int:
        return self.ledger().bytes + 8 * self.store.num_rows * self.embedding_dim + self.planned_serving().bytes

    @torch.no_grad()
    def serving(self) -> SharedBlocksTable:
        """Blocks that are alike held once."""
        if (table := self._shared(self.options)).device.type == "meta":
            return table
        blocks = self._padded_blocks()
        leader = leaders_of(blocks.flatten(1), self.config.kept, self.options.seed)
        kept = leader == torch.arange(len(leader), device=leader.device)
        table.reads_block.copy_((kept.cumsum(0) - 1)[leader])
        table.store.write(slice(None), blocks[kept].flatten(0, 1))
        table.store.fit_steps()
        shares = (float(part.double().mean()) for part in kept.split(table.blocks))
        named = dict(zip((v.name for v in self.vocabularies), shares, strict=True))
        note = "Per cent of every vocabulary's blocks that are held; the others read one of these, or of another's."
        table.findings = (by_vocabulary("Blocks kept per field", note, "blocks", named, share=True),)
        return table

    def _padded_blocks(self) -> Tensor:
        """float [blocks, block, D]; the last of a vocabulary ends in zeros."""
        size, pad = self.config.block, torch.nn.functional.pad
        parts = self.store.read(slice(None)).split(self.range_sizes)
        return torch.cat([pad(rows, (0, 0, 0, -len(rows) % size)).unflatten(0, (-1, size)) for rows in parts])

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train, share, train on."""
        trainer.run("train")
        trainer.restart(self.serving(), trainer.model.state_dict())
        if self.config.fine_tune_epochs != 0:
            trainer.run("fine-tune", max_epochs=self.config.fine_tune_epochs)
        return trainer.table


def _blocks_of(vocabularies: Sequence[Vocabulary], block: int) -> list[int]:
    return [-(-v.num_embeddings // block) for v in vocabularies]


def dedup_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    block: int = 8,
    fine_tune_epochs: int | None = None,
) -> Family[DedupConfig]:
    """By blocks kept; all of them without a budget."""
    if block < 1:
        raise ValueError(f"dedup: block must be at least 1, got {block}")
    return Family(
        lambda kept: DedupConfig(kept, block, fine_tune_epochs),
        low=1,
        high=sum(_blocks_of(vocabularies, block)),
        smallest="one block, and an integer for every block of ids",
    )


register(TableMethod("dedup.shared", "blocks that are held once", SharedBlocksConfig, SharedBlocksTable))
register(
    TableMethod(
        name="dedup",
        summary="blocks of a trained table that are alike, held once",
        group="dynamic encoding",
        paper="Zhou et al., VLDB 2022",
        config=DedupConfig,
        table=DedupTable,
        family=dedup_family,
        fills="steps",
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

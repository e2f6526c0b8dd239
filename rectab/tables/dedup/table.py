"""The full table that deduplication trains, and how its blocks come to be shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.block_sharing import leaders_of
from rectab.tables.dedup.config import DedupConfig, SharedBlocksConfig
from rectab.tables.dedup.serving import SharedBlocksTable
from rectab.tables.findings import by_vocabulary
from rectab.tables.ledger import Ledger
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table

if TYPE_CHECKING:
    from rectab.tables.staged import StageRunner

__all__ = ["DedupTable"]


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

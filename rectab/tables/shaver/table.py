"""Shaver's full table: what its blocks are worth to a trained model, and the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.ops.steps import LearnedSteps
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.findings import grid
from rectab.tables.ledger import Ledger, bound
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table
from rectab.tables.shaver.serving import CompactShaverConfig, CompactShaverTable, kept_within, limits

if TYPE_CHECKING:
    from rectab.tables.staged import StageRunner

__all__ = ["ShaverConfig", "ShaverTable"]


@dataclass(frozen=True)
class ShaverConfig:
    """Attributes:
    budget_bytes: most bytes of the cut table.
    permutations: orders of the blocks, each on a batch of training rows, that values are averaged over.
    """

    budget_bytes: int | None = field(default=None, metadata={"planned": True})
    permutations: int = 8

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise ValueError(f"shaver: permutations must be at least 1, got {self.permutations}")


class ShaverTable(RangeTable[ShaverConfig]):
    """The full table while it is trained.

    Memory while training: that of the full table; between training and serving, that of the cut table besides.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ShaverConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, [v.num_embeddings for v in vocabularies], seed=0)
        self._in_place_of: tuple[Tensor, Tensor] | None = None  # bool [V, D] and means [V, D], while values are found

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        vectors = super().lookup(ids, vocabulary)
        if self._in_place_of is None:
            return vectors
        gone, means = self._in_place_of
        return torch.where(gone[vocabulary], means[vocabulary], vectors)

    @torch.no_grad()
    def means(self) -> Tensor:
        """fp32 [V, D]: of every vocabulary, its ids weighed by their training counts, if there are any."""
        return torch.stack([(rows * weights).sum(0) for rows, weights in self._weighed()])

    def _weighed(self) -> list[tuple[Tensor, Tensor]]:
        """(rows [n, D], weights [n, 1] of sum 1) of every vocabulary."""
        found = []
        for vocabulary, rows in zip(
            self.vocabularies, self.store.read(slice(None)).split(self.range_sizes), strict=True
        ):
            counts = torch.ones(len(rows)) if vocabulary.counts is None else torch.from_numpy(vocabulary.counts).float()
            counts = counts if counts.sum() > 0 else torch.ones(len(rows))
            found.append((rows.float(), (counts / counts.sum()).to(rows.device).unsqueeze(1)))
        return found

    @torch.no_grad()
    def shapley_values(self, trainer: StageRunner) -> Tensor:
        """fp64 [V, D]: by how much the loss of training rows grows, on average, as a block goes; the model around it is
        ``trainer``'s. Every order of blocks is taken forwards and backwards, on the same batch."""
        generator = torch.Generator().manual_seed(self.options.seed)
        means = self.means().to(self.store.dtype)
        values = torch.zeros(means.numel(), dtype=torch.float64)
        trainer.model.eval()
        try:
            orders = 0
            for batch in islice(trainer.train_batches(0), -(-self.config.permutations // 2)):
                order = torch.randperm(values.numel(), generator=generator)
                for blocks in (order, order.flip(0)):
                    gone = torch.zeros_like(means, dtype=torch.bool)
                    self._in_place_of = (gone, means)
                    before = float(trainer.loss(batch))
                    for block in blocks.tolist():
                        gone.view(-1)[block] = True
                        after = float(trainer.loss(batch))
                        values[block] += after - before
                        before = after
                    orders += 1
        finally:
            self._in_place_of = None
        return (values / orders).view(means.shape)

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train, find what blocks are worth, cut. Nothing is trained afterwards."""
        trainer.run("train")
        model = trainer.model
        trainer.restart(self.cut(self.shapley_values(trainer)), model.state_dict())
        return trainer.table

    def serving(self) -> EmbeddingTable:
        """Cut by the variance of blocks alone; with a model around it :meth:`train_with` does better."""
        if self.store.device.type == "meta":
            return self
        with torch.no_grad():
            spread = [((rows - (rows * w).sum(0)).square() * w).sum(0) for rows, w in self._weighed()]
        return self.cut(torch.stack(spread).double())

    @torch.no_grad()
    def cut(self, values: Tensor) -> CompactShaverTable:
        """Without the blocks of the least ``values`` [V, D], as many as the budget asks for."""
        kept = kept_within(values, self.vocabularies, self.options, self.config.budget_bytes)
        columns = tuple(tuple(row.nonzero().squeeze(1).tolist()) for row in kept)
        config = CompactShaverConfig(columns)
        table = build_table("shaver.compact", self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, CompactShaverTable)
        means = self.means()
        for index, rows in enumerate(self.store.read(slice(None)).split(self.range_sizes)):
            if columns[index]:
                table.rows.fill(index, rows)
        if isinstance(self.store.steps, LearnedSteps):
            table.rows.take_steps(self.store.steps)
        table.mean.write(slice(None), means.masked_fill(kept.to(means.device), 0.0))
        note = "What a block of a vocabulary and a dimension is worth, as a share of the most; of those gone, 0."
        shown = (values.clamp(min=0) / values.max().clamp(min=1e-30)).where(kept, 0.0)
        names = [v.name for v in self.vocabularies], [str(d + 1) for d in range(self.embedding_dim)]
        table.findings = (grid("Blocks kept", note, "value", *names, shown.tolist()),)
        return table

    def planned_serving(self) -> Ledger:
        """The most that it may be cut to: the budget, or everything."""
        return bound(self.config.budget_bytes, *limits(self.vocabularies, self.embedding_dim, self.options))

    def bytes_between_stages(self) -> int:
        return self.ledger().bytes + self.planned_serving().bytes

"""A table whose rows change places while it trains: the ids read most own a row, all others share hashed rows.

Registered by importing it; ``RECTAB_PLUGINS=promoting`` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rectab.optim import Adam, RowOptimizer, RowRule
from rectab.schema import Vocabulary
from rectab.tables import Family, TableMethod, TableOptions, register
from rectab.tables.hashed import allocate_rows
from rectab.tables.ranges import RangeTable


@dataclass(frozen=True)
class PromotingConfig:
    num_rows: tuple[int, ...]  # shared rows of every vocabulary
    own: int = 8  # rows for those read most
    every: int = 10  # steps between two looks at the counts
    seed: int = 0


class PromotingTable(RangeTable[PromotingConfig]):
    combine = None
    slot: Tensor
    owner: Tensor
    counts: Tensor
    first_id: Tensor

    def __init__(
        self, vocabularies: Sequence[Vocabulary], dim: int, config: PromotingConfig, options: TableOptions | None = None
    ) -> None:
        super().__init__(vocabularies, dim, config, options, config.num_rows, config.seed)
        sizes = [v.num_embeddings for v in vocabularies]
        self.own = self.options.row_store(config.own, dim, init_std=0.0)
        for name, values in {
            "slot": torch.full((sum(sizes),), -1, dtype=torch.int32),  # the own row of every id, or -1
            "owner": torch.full((config.own,), -1),  # the id of every own row, or -1
            "counts": torch.zeros(sum(sizes), dtype=torch.int32),
            "first_id": torch.tensor([0, *accumulate(sizes[:-1])]),
        }.items():
            self.register_buffer(name, values.to(self.options.device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        numbers = self.first_id[vocabulary] + ids
        if torch.is_grad_enabled():
            self.counts.index_add_(0, numbers.flatten(), torch.ones(numbers.numel(), dtype=torch.int32))
        slot, shared = self.slot[numbers], self.address(ids, vocabulary)
        owned = slot >= 0
        vectors = self.store.new_zeros(*ids.shape, self.embedding_dim)
        vectors[owned], vectors[~owned] = self.own(slot[owned]), self.store(shared[~owned])
        return vectors

    def rules(self) -> dict[str, RowRule]:
        return {"own": Adam(eps=1e-6)}

    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        if step % self.config.every or optimizer is None:
            return
        hot = self.counts.sort(descending=True, stable=True).indices[: self.config.own]
        hot = hot[self.counts[hot] > 0]
        left = ((self.owner >= 0) & ~torch.isin(self.owner, hot)).nonzero().squeeze(1)
        self.slot[self.owner[left]], self.owner[left] = -1, -1
        optimizer.reset(self.own, left, self.own.new_zeros(left.numel(), self.embedding_dim))
        new = hot[self.slot[hot] < 0]
        rows = (self.owner < 0).nonzero().squeeze(1)[: new.numel()]
        vocabulary = torch.searchsorted(self.first_id, new, right=True) - 1
        shared = self.address(new - self.first_id[vocabulary], vocabulary)
        optimizer.move(self.store, shared, rows, to=self.own)
        self.slot[new], self.owner[rows] = rows.int(), new


def promoting_family(
    vocabularies: Sequence[Vocabulary], dim: int, options: TableOptions, *, own: int = 8, every: int = 10
) -> Family[PromotingConfig]:
    sizes = [v.num_embeddings for v in vocabularies]
    config = lambda total: PromotingConfig(allocate_rows(sizes, total, 1), own, every)  # noqa: E731
    return Family(config, low=len(sizes), high=sum(sizes) - 1)


register(
    TableMethod("promoting", "rows of their own for ids read often", PromotingConfig, PromotingTable, promoting_family)
)

"""Lookups of a table in which some ids own a row and all others share, and the form in which it is served."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rectab.ops.dispatch import is_eager
from rectab.ops.hashing import mix
from rectab.ops.searching import last_at_or_before
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.cafe.config import CafeConfig
from rectab.tables.compact import gather_present
from rectab.tables.findings import Finding
from rectab.tables.ranges import RangeTable

__all__ = ["CompactCafeTable", "OwnOrSharedTable"]


class OwnOrSharedTable(RangeTable[CafeConfig]):
    """Shared rows, kept whole or hashed, and own rows, which ids find by a key."""

    first_id: Tensor
    shared_ids: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CafeConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, config.num_rows, config.seed)
        sizes = [0 if w else v.num_embeddings for v, w in zip(self.vocabularies, self.whole, strict=True)]
        # Numbers of ids where they are counted; else a hash of 64 bits.
        self.by_hash = any(v.hashed for v in self.vocabularies) or sum(sizes) >= 2**31
        self.key_dtype = torch.int64 if self.by_hash else torch.int32
        if not self.by_hash:
            for name, values in ("first_id", [0, *accumulate(sizes[:-1])]), ("shared_ids", sizes):
                self.register_buffer(name, torch.tensor(values, dtype=torch.int32, device=self.options.device))
        self.own = self.options.row_store(config.own, embedding_dim, init_std=0.0, steps="filled")

    def keys(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*]: what tells an id from all others; -1 for one that owns no row, ever."""
        if self.by_hash:
            largest = torch.iinfo(torch.int64).max
            return (mix(ids, self.salt[vocabulary]) & largest).where(self.num_rows[vocabulary] > 0, -1)
        inside = (ids >= 0) & (ids < self.shared_ids[vocabulary])
        return (self.first_id[vocabulary] + ids).where(inside, -1)

    def find(self, keys: Tensor) -> Tensor:
        """int64 [*] -> int64 [*]: the own row of every key, or -1."""
        raise NotImplementedError

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        keys, shared = self.keys(ids, vocabulary), self.address(ids, vocabulary)
        rows = self.find(keys)
        owned = rows >= 0
        if not is_eager(ids):
            return torch.where(owned.unsqueeze(-1), gather_present(self.own, rows, owned), self.store(shared))
        if not owned.any():
            vectors = self.store(shared)
        else:  # no row hears of the ids of others
            vectors = self.store.new_zeros(*ids.shape, self.embedding_dim)
            vectors[owned], vectors[~owned] = self.own(rows[owned]), self.store(shared[~owned])
        self._listen(keys, shared, vectors)
        return vectors

    def _listen(self, keys: Tensor, shared: Tensor, vectors: Tensor) -> None:
        """Called with the keys, the shared rows and the vectors of every lookup."""


class CompactCafeTable(OwnOrSharedTable):
    """What CAFE is served as: own rows lie in the order of their keys, and a key is found by halving.

    Memory: (sum of num_rows + own) rows of D, a key an own row (4 bytes; 8 where ids are hashed), and three or four
    integers a vocabulary.
    """

    key: Tensor
    findings: tuple[Finding, ...] = ()

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CafeConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        last = torch.iinfo(self.key_dtype).max  # of a row that nobody owns
        self.register_buffer("key", torch.full((config.own,), last, dtype=self.key_dtype, device=self.options.device))

    def serving(self) -> CompactCafeTable:
        served = super().serving()
        assert isinstance(served, CompactCafeTable)
        served.findings = self.findings
        return served

    def learned(self) -> tuple[Finding, ...]:
        return self.findings

    def find(self, keys: Tensor) -> Tensor:
        at = last_at_or_before(self.key, keys.to(self.key_dtype))
        return at.where(self.key[at] == keys, -1)

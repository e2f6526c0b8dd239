"""Tables in which every vocabulary owns one range of rows: one row an id, or hashed into the range."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, RowStore, address_rows, salt_of
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable, TableOptions

__all__ = ["RangeTable"]

ConfigT = TypeVar("ConfigT")


class RangeTable(EmbeddingTable[ConfigT]):
    """One store; vocabulary v owns ``num_rows[v]`` consecutive rows of it.

    A fitted vocabulary whose range has a row for every id is kept whole (no hashing, no collision). Every other one is
    hashed with its own salt, which depends on the seed and the vocabulary's name, so that adding or reordering
    vocabularies moves no rows within a range.

    Rows are D wide and start with the options' standard deviation, unless a method says otherwise (``row_dim``,
    ``init_gain``) and makes them so in its ``lookup``. Without ``learns_steps`` formats of learned steps hold plain
    floats: those of a stage that searches or prunes, after which the rows that are left learn steps.

    Memory: (sum of num_rows) * (bytes of a row), and per vocabulary a first row, a number of rows and, if any is
    hashed, a salt.
    """

    combine = "concat"
    first_row: Tensor
    num_rows: Tensor
    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None,
        num_rows: Sequence[int],
        seed: int,
        row_dim: int | None = None,
        init_gain: float = 1.0,
        learns_steps: bool = True,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if len(num_rows) != len(self.vocabularies) or min(num_rows) < 1:
            raise ValueError(f"num_rows needs one positive number a vocabulary, got {tuple(num_rows)}")
        self.range_sizes, self.seed = tuple(num_rows), seed
        self.whole = tuple(
            not v.hashed and rows >= v.num_embeddings for v, rows in zip(self.vocabularies, num_rows, strict=True)
        )
        self.lookup_refuses = all(self.whole)
        device = self.options.device
        total = sum(num_rows)
        integer = torch.int32 if total <= MAX_ROWS else torch.int64
        first = torch.tensor([0, *accumulate(num_rows[:-1])])
        signed = [-rows if whole else rows for rows, whole in zip(num_rows, self.whole, strict=True)]
        self.register_buffer("first_row", first.to(integer).to(device))
        self.register_buffer("num_rows", torch.tensor(signed).to(integer).to(device))
        if not all(self.whole):
            salts = [salt_of(seed, vocabulary.name) for vocabulary in self.vocabularies]
            self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=device))
        generator = torch.Generator().manual_seed(self.options.seed)
        std, self.learns_steps = init_gain * self.options.init_std, learns_steps
        self.store = self._new_store(total, row_dim or embedding_dim, std, generator)

    def _new_store(self, num_rows: int, row_dim: int, init_std: float, generator: torch.Generator) -> RowStore:
        return self.options.row_store(
            num_rows,
            row_dim,
            init_std=init_std,
            generator=generator,
            groups=self.range_sizes,
            steps="start" if self.learns_steps else "never",
        )

    def address(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*]: the row of every id."""
        num_rows = self.num_rows[vocabulary]
        salt = torch.zeros_like(num_rows) if all(self.whole) else self.salt[vocabulary]
        return address_rows(ids, salt, self.first_row[vocabulary], num_rows)

    def reads(self, ids: Tensor, vocabulary: Tensor) -> list[tuple[RowStore, Tensor]]:
        return [(self.store, self.address(ids, vocabulary).unsqueeze(-1))]

    def addresses(self) -> tuple[Address, ...]:
        firsts = accumulate((0, *self.range_sizes[:-1]))
        return tuple(
            Address(index, 0, "store", first, size, "id")
            if whole
            else Address(index, 0, "store", first, size, "hash", salt_of(self.seed, self.vocabularies[index].name))
            for index, (first, size, whole) in enumerate(zip(firsts, self.range_sizes, self.whole, strict=True))
        )

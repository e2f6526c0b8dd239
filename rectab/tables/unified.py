"""Unified Embedding: one row store for all vocabularies (feature multiplexing).

Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML Systems", NeurIPS 2023. Every
vocabulary is hashed, with its own salt, into the same rows; an id looks up ``num_chunks`` narrow rows with independent
salts and concatenates them. Collisions between vocabularies are harmless once the model reads them through different
weights, so the only knob is the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, RowStore, hash_rows, salt_of
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, RowRange, TableOptions
from rectab.tables.registry import InfeasibleBudget, TableMethod, build_table, register

__all__ = ["UnifiedConfig", "UnifiedTable"]


@dataclass(frozen=True)
class UnifiedConfig:
    """Attributes:
    rows_per_table: rows of every sub-table.
    num_chunks: rows an id looks up; each is D / num_chunks wide.
    num_tables: sub-tables that (vocabulary, chunk) pairs are dealt to round-robin, against hot spots when sharded.
    seed: of the hash.
    """

    rows_per_table: int
    num_chunks: int = 2
    num_tables: int = 1
    seed: int = 0


class UnifiedTable(EmbeddingTable[UnifiedConfig]):
    """One store of rows that all vocabularies share.

    Any id is served, also one never seen in training (it reads the rows it hashes to). The salt of (vocabulary, chunk)
    depends on the seed, the vocabulary's name and the chunk's number, so chunks keep numeric order and a new vocabulary
    moves no rows. With several sub-tables a new vocabulary must come last.

    Memory: num_tables * rows_per_table * (bytes of a row of D / num_chunks elements) + 8 * num_chunks bytes a
    vocabulary, whatever the number and size of the vocabularies.
    """

    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: UnifiedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if config.num_chunks < 1 or embedding_dim % config.num_chunks:
            raise ValueError(f"unified: num_chunks {config.num_chunks} does not divide embedding_dim {embedding_dim}")
        if config.num_tables < 1:
            raise ValueError(f"unified: num_tables must be at least 1, got {config.num_tables}")
        if not 1 <= config.rows_per_table <= MAX_ROWS:
            raise ValueError(
                f"unified: rows_per_table must be in 1..{MAX_ROWS}, got {config.rows_per_table}; more rows need more "
                "sub-tables (num_tables)"
            )
        device = self.options.device
        chunks = range(config.num_chunks)
        salts = [[salt_of(config.seed, vocabulary.name, chunk) for chunk in chunks] for vocabulary in self.vocabularies]
        self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=device))
        self.store = RowStore(
            config.num_tables * config.rows_per_table,
            embedding_dim // config.num_chunks,
            init_std=self.options.init_std,
            generator=torch.Generator().manual_seed(self.options.seed),
            gradient=self.options.gradient,
            rows=self.options.rows,
            device=device,
        )

    def address(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*, num_chunks]: the rows of every id, in chunk order."""
        rows = hash_rows(ids.unsqueeze(-1), self.salt[vocabulary], self.config.rows_per_table)
        if self.config.num_tables == 1:
            return rows
        pair = vocabulary.unsqueeze(-1) * self.config.num_chunks + self._chunks(ids)
        return rows + pair % self.config.num_tables * self.config.rows_per_table

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        return self.store(self.address(ids, vocabulary)).flatten(-2)

    def row_ranges(self) -> list[RowRange]:
        size, chunks, tables = self.config.rows_per_table, self.config.num_chunks, self.config.num_tables
        pairs = [(vocabulary, chunk) for vocabulary in range(len(self.vocabularies)) for chunk in range(chunks)]
        return [RowRange(v, c, 0, (v * chunks + c) % tables * size, size, hashed=True) for v, c in pairs]

    def _chunks(self, ids: Tensor) -> Tensor:
        return torch.arange(self.config.num_chunks, device=ids.device)


def plan_unified(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    budget_bytes: int | None,
    options: TableOptions,
    *,
    num_chunks: int | None = None,
    num_tables: int | None = None,
    seed: int = 0,
) -> UnifiedConfig:
    """As many rows as the budget holds; without a budget, as many elements as the full table has.

    ``num_chunks`` defaults to 2 where that divides ``embedding_dim``: the TFRS tutorial loses about 2 % with one.
    ``num_tables`` defaults to 1, and beyond ``MAX_ROWS`` rows to as few sub-tables as hold them; a table with one for
    every (vocabulary, chunk) pair grows no further.

    Raises:
        InfeasibleBudget: not even one row a sub-table fits the budget.
        ValueError: the sub-tables asked for by ``num_tables`` cannot hold the rows.
    """
    if num_chunks is None:
        num_chunks = 2 if embedding_dim % 2 == 0 else 1

    pairs = len(vocabularies) * num_chunks
    if budget_bytes is None:
        rows = sum(v.num_embeddings for v in vocabularies) * num_chunks
        num_tables = _sub_tables(rows, pairs, num_tables)
        return UnifiedConfig(min(-(-rows // num_tables), MAX_ROWS), num_chunks, num_tables, seed)
    first = UnifiedConfig(1, num_chunks, 1 if num_tables is None else num_tables, seed)
    smallest = build_table("unified", vocabularies, embedding_dim, first, options).ledger().bytes
    if smallest > budget_bytes:
        raise InfeasibleBudget("unified", budget_bytes, smallest, "one row a sub-table")
    row_bytes = options.row_bytes(embedding_dim // num_chunks)
    rows = first.num_tables + int((budget_bytes - smallest) // row_bytes)
    num_tables = _sub_tables(rows, pairs, num_tables)
    return UnifiedConfig(min(rows // num_tables, MAX_ROWS), num_chunks, num_tables, seed)


def _sub_tables(rows: int, pairs: int, asked: int | None) -> int:
    """How many sub-tables: those asked for, or as few as hold ``rows``; more than ``pairs`` would stay empty."""
    needed = max(1, min(-(-rows // MAX_ROWS), pairs))
    if asked is not None and asked < needed:
        raise ValueError(
            f"unified: num_tables={asked} holds at most {max(asked, 0) * MAX_ROWS} rows, and {rows} are to be held; "
            f"give at least {needed}, or leave num_tables out"
        )
    return needed if asked is None else asked


register(
    TableMethod(
        name="unified",
        summary="all vocabularies hashed into the same rows, several narrow rows an id",
        paper="Coleman et al., NeurIPS 2023",
        config=UnifiedConfig,
        table=UnifiedTable,
        plan=plan_unified,
        any_budget=True,
        serves_any_id=True,
    )
)

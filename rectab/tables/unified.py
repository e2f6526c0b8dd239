"""Unified Embedding: one row store for all vocabularies (feature multiplexing).

Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML Systems", NeurIPS 2023. Every
vocabulary is hashed, with its own salt, into the same rows; an id looks up ``num_chunks`` narrow rows with independent
salts and concatenates them. Collisions between vocabularies are harmless once the model reads them through different
weights, so the only knob is the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, RowStore, hash_rows, salt_of
from rectab.ops.dispatch import find_kernel, is_eager
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register

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

    def __post_init__(self) -> None:
        for name in ("num_chunks", "num_tables"):
            if getattr(self, name) < 1:
                raise ValueError(f"unified: {name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.rows_per_table <= MAX_ROWS:
            raise ValueError(
                f"unified: rows_per_table must be in 1..{MAX_ROWS}, got {self.rows_per_table}; more rows need more "
                "sub-tables (num_tables)"
            )


class UnifiedTable(EmbeddingTable[UnifiedConfig]):
    """One store of rows that all vocabularies share.

    Any id is served, also one never seen in training (it reads the rows it hashes to). The salt of (vocabulary, chunk)
    depends on the seed, the vocabulary's name and the chunk's number, so chunks keep numeric order and a new vocabulary
    moves no rows. With several sub-tables a new vocabulary must come last.

    Memory: num_tables * rows_per_table * (bytes of a row of D / num_chunks elements) + 8 * num_chunks bytes a
    vocabulary, whatever the number and size of the vocabularies.
    """

    combine = "concat"
    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: UnifiedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if embedding_dim % config.num_chunks:
            raise ValueError(f"unified: num_chunks {config.num_chunks} does not divide embedding_dim {embedding_dim}")
        device = self.options.device
        chunks = range(config.num_chunks)
        salts = [[salt_of(config.seed, vocabulary.name, chunk) for chunk in chunks] for vocabulary in self.vocabularies]
        self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=device))
        self.store = self.options.row_store(
            config.num_tables * config.rows_per_table,
            embedding_dim // config.num_chunks,
            init_std=self.options.init_std,
            generator=torch.Generator().manual_seed(self.options.seed),
        )

    def address(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*, num_chunks]: the rows of every id, in chunk order."""
        rows = hash_rows(ids.unsqueeze(-1), self.salt[vocabulary], self.config.rows_per_table)
        if self.config.num_tables == 1:
            return rows
        pair = vocabulary.unsqueeze(-1) * self.config.num_chunks + self._chunks(ids)
        return rows + pair % self.config.num_tables * self.config.rows_per_table

    def reads(self, ids: Tensor, vocabulary: Tensor) -> list[tuple[RowStore, Tensor]]:
        return [(self.store, self.address(ids, vocabulary))]

    def gathered(self, ids: Tensor, vocabulary: Tensor) -> Tensor | None:
        """Hashes are computed while the rows of ids before are on their way from memory."""
        gather = find_kernel("gather", "hashed", ids.device) if is_eager(ids, vocabulary) else None
        if gather is None or not self.store.reads_plainly:
            return None
        if vocabulary.shape != ids.shape[ids.dim() - vocabulary.dim() :]:
            vocabulary = vocabulary.expand(ids.shape)
        owners = vocabulary.reshape(-1)
        if not owners.numel():
            return None
        pairs = owners.unsqueeze(1) * self.config.num_chunks + self._chunks(ids)
        bases = pairs % self.config.num_tables * self.config.rows_per_table
        found: Tensor = gather(self.store.weight, ids, self.salt[owners], bases, self.config.rows_per_table)
        return found

    def addresses(self) -> tuple[Address, ...]:
        config, names = self.config, [v.name for v in self.vocabularies]
        size, chunks, tables = config.rows_per_table, config.num_chunks, config.num_tables
        return tuple(
            Address(v, c, "store", (v * chunks + c) % tables * size, size, "hash", salt_of(config.seed, name, c))
            for v, name in enumerate(names)
            for c in range(chunks)
        )

    def _chunks(self, ids: Tensor) -> Tensor:
        return torch.arange(self.config.num_chunks, device=ids.device)


def unified_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    num_chunks: int | None = None,
    num_tables: int | None = None,
    seed: int = 0,
) -> Family[UnifiedConfig]:
    """Rows of all sub-tables together; without a budget, as many elements as the full table has.

    ``num_chunks`` defaults to 2 where that divides ``embedding_dim``: the TFRS tutorial loses about 2 % with one.
    ``num_tables`` defaults to 1, and beyond ``MAX_ROWS`` rows to as few sub-tables as hold them; a table with one for
    every (vocabulary, chunk) pair grows no further.
    """
    chunks = num_chunks if num_chunks is not None else 2 if embedding_dim % 2 == 0 else 1
    first = UnifiedConfig(1, chunks, 1 if num_tables is None else num_tables, seed)
    pairs = len(vocabularies) * chunks
    most = (pairs if num_tables is None else num_tables) * MAX_ROWS
    limit = f"num_tables={num_tables} holds at most {most} rows; give more, or leave num_tables out"

    def config_of(rows: int) -> UnifiedConfig:
        tables = min(-(-rows // MAX_ROWS), pairs) if num_tables is None else num_tables
        return replace(first, rows_per_table=min(-(-rows // tables), MAX_ROWS), num_tables=tables)

    def own() -> UnifiedConfig:
        rows = sum(v.num_embeddings for v in vocabularies) * chunks
        if num_tables is not None and num_tables < pairs and rows > most:
            raise ValueError(f"unified: {limit}")
        return config_of(rows)

    return Family(
        config_of,
        low=first.num_tables,
        high=most,
        own=own,
        smallest="one row a sub-table",
        limit="" if num_tables is None or num_tables >= pairs else limit,
    )


register(
    TableMethod(
        name="unified",
        summary="all vocabularies hashed into the same rows, several narrow rows an id",
        group="static encoding",
        paper="Coleman et al., NeurIPS 2023",
        config=UnifiedConfig,
        table=UnifiedTable,
        family=unified_family,
        serves_any_id=True,
    )
)

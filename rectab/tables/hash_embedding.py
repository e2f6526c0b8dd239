"""Hash embeddings: a vector is the sum of several shared rows, in proportions that are trained for the id.

Svenstrup, Hansen and Winther, "Hash Embeddings for Efficient Word Representations", NeurIPS 2017. k hash functions
choose k of B shared rows, and one more chooses one of K rows of k importance weights; the weighted sum is the vector.
Weights are cheap, so there are many more of them than of rows (the paper takes K > 10 B): ids that meet in all of their
rows still differ.

All vocabularies together are the paper's one dictionary: each has its own salts and all use the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, hash_rows, salt_of
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register

__all__ = ["HashEmbeddingConfig", "HashEmbeddingTable"]


@dataclass(frozen=True)
class HashEmbeddingConfig:
    """Attributes:
    num_rows: B, shared rows of D elements.
    num_weights: K, rows of ``num_hashes`` importance weights.
    num_hashes: k, rows that an id reads.
    seed: of the hashes.
    """

    num_rows: int
    num_weights: int
    num_hashes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_hashes < 1:
            raise ValueError(f"hash_embedding: num_hashes must be at least 1, got {self.num_hashes}")
        if not 1 <= min(self.num_rows, self.num_weights) <= max(self.num_rows, self.num_weights) <= MAX_ROWS:
            raise ValueError(f"hash_embedding: num_rows and num_weights must be in 1..{MAX_ROWS}, got {self}")


class HashEmbeddingTable(EmbeddingTable[HashEmbeddingConfig]):
    """A store of rows and a store of weights, both for all vocabularies.

    Any id is served, also one never seen in training.

    Memory: B * (bytes of a row of D) + K * (bytes of a row of k) + 8 * (k + 1) bytes a vocabulary.
    """

    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: HashEmbeddingConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        salts = torch.tensor(self._salts(), dtype=torch.int64, device=self.options.device)
        self.register_buffer("salt", salts)
        generator = torch.Generator().manual_seed(self.options.seed)
        # Of a size, so that steps of one length move both; a sum of k products then has the asked deviation.
        std = (self.options.init_std / config.num_hashes**0.5) ** 0.5
        self.store = self.options.row_store(config.num_rows, embedding_dim, init_std=std, generator=generator)
        self.weight = self.options.row_store(config.num_weights, config.num_hashes, init_std=std, generator=generator)

    def _salts(self) -> list[list[int]]:
        """By vocabulary, those of the rows and, last, that of the weights."""
        parts = [*range(self.config.num_hashes), "weight"]
        return [[salt_of(self.config.seed, v.name, part) for part in parts] for v in self.vocabularies]

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        salt = self.salt[vocabulary]
        rows = hash_rows(ids.unsqueeze(-1), salt[..., :-1], self.config.num_rows)
        weights = self.weight(hash_rows(ids, salt[..., -1], self.config.num_weights))
        return (weights.unsqueeze(-2) @ self.store(rows)).squeeze(-2)

    def addresses(self) -> tuple[Address, ...]:
        size = self.config.num_rows
        return tuple(
            Address(v, chunk, "store", 0, size, "hash", salt)
            for v, salts in enumerate(self._salts())
            for chunk, salt in enumerate(salts[:-1])
        )


def hash_embedding_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    num_hashes: int = 2,
    weight_share: float = 0.5,
    seed: int = 0,
) -> Family[HashEmbeddingConfig]:
    """By rows; weights take ``weight_share`` of the bytes of both. Without a budget, as many bytes as the full
    table's rows."""
    if not 0 < weight_share < 1:
        raise ValueError(f"hash_embedding: weight_share must be between 0 and 1, got {weight_share}")
    if num_hashes < 1:
        raise ValueError(f"hash_embedding: num_hashes must be at least 1, got {num_hashes}")
    row, weight = options.row_bytes(embedding_dim), options.row_bytes(num_hashes)
    weights_a_row = row * weight_share / (weight * (1 - weight_share))
    full = sum(v.num_embeddings for v in vocabularies)

    def config_of(rows: int) -> HashEmbeddingConfig:
        return HashEmbeddingConfig(rows, max(1, int(rows * weights_a_row)), num_hashes, seed)

    most = int(MAX_ROWS / max(1.0, weights_a_row))
    return Family(
        config_of,
        low=1,
        high=most,
        own=lambda: config_of(max(1, min(int(full * (1 - weight_share)), most))),
        smallest="one row, and the weights beside it",
        limit=f"it holds at most {MAX_ROWS} rows and as many rows of weights",
    )


register(
    TableMethod(
        name="hash_embedding",
        summary="shared rows, summed in proportions trained for the id",
        group="static encoding",
        paper="Svenstrup et al., NeurIPS 2017",
        config=HashEmbeddingConfig,
        table=HashEmbeddingTable,
        family=hash_embedding_family,
        serves_any_id=True,
    )
)

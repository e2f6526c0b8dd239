"""What CCE may be, and which of it a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows

__all__ = ["CCEConfig", "cce_family"]

_MOST_ROWS = 1 << 16  # of a vocabulary, that centroids are fitted for
_WHOLE_BELOW = 100  # ids of a vocabulary that keeps a row each, as under hashed


@dataclass(frozen=True)
class CCEConfig:
    """Attributes:
    num_rows: rows of both kinds of every vocabulary, in schema order.
    num_chunks: parts of a vector.
    every: lookups between two clusterings, by id: 1 is as many lookups as ids were counted in training.
    clusterings: how often it is clustered.
    seed: of hashes and clusterings.
    """

    num_rows: tuple[int, ...]
    num_chunks: int = 2
    every: float = 1.0
    clusterings: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        rows = 1 <= min(self.num_rows) <= max(self.num_rows) <= _MOST_ROWS
        if not rows or self.num_chunks < 1 or self.every <= 0 or self.clusterings < 0:
            raise ValueError(f"cce: a number is out of range (rows of a vocabulary: 1..{_MOST_ROWS}) in {self}")


def cce_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    num_chunks: int | None = None,
    every: float = 1.0,
    clusterings: int = 3,
    seed: int = 0,
) -> Family[CCEConfig]:
    """By rows of a kind."""
    sizes = [v.num_embeddings for v in vocabularies]
    chunks = num_chunks or (2 if embedding_dim % 2 == 0 else 1)

    def config_of(total: int) -> CCEConfig:
        rows = tuple(min(n, _MOST_ROWS) for n in allocate_rows(sizes, total, _WHOLE_BELOW))
        return CCEConfig(rows, chunks, every, clusterings, seed)

    return Family(
        config_of,
        low=len(sizes),
        high=sum(sizes),
        smallest=f"a pointer an id for each of {chunks} chunks, and two rows a vocabulary; num_chunks=1 takes least",
    )

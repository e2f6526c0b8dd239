"""What CAFE may be, and which of it a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows

__all__ = ["CafeConfig", "cafe_family"]


@dataclass(frozen=True)
class CafeConfig:
    """Attributes:
    num_rows: shared rows of every vocabulary, in schema order.
    own: rows that ids own.
    every: steps between two exchanges of rows.
    decay: by what scores are multiplied when they have grown to ten times the least score of an own row, on average.
    threshold: least score of an id that owns a row; 0: whoever scores highest.
    seed: of the hashes.
    """

    num_rows: tuple[int, ...]
    own: int
    every: int = 10
    decay: float = 0.98
    threshold: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.own < 1 or self.every < 1 or not 0.0 < self.decay <= 1.0 or self.threshold < 0.0:
            raise ValueError(
                f"cafe: own and every must be at least 1, decay in (0, 1], threshold at least 0, got {self}"
            )


def cafe_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    own_share: float = 0.7,
    whole_below: int = 100,
    every: int = 10,
    decay: float = 0.98,
    threshold: float = 0.0,
    seed: int = 0,
) -> Family[CafeConfig]:
    """By rows, own and shared together; ``own_share`` of those beyond one a vocabulary are own rows."""
    if not 0.0 < own_share < 1.0 or whole_below < 1:
        raise ValueError(
            f"cafe: own_share must be between 0 and 1 and whole_below at least 1, got {own_share}, {whole_below}"
        )
    sizes = [v.num_embeddings for v in vocabularies]

    def config_of(total: int) -> CafeConfig:
        own = max(1, int(own_share * (total - len(sizes))))
        return CafeConfig(allocate_rows(sizes, total - own, whole_below), own, every, decay, threshold, seed)

    high = max(sum(sizes), len(sizes) + 1)
    return Family(config_of, low=len(sizes) + 1, high=high, smallest="a shared row a vocabulary and one own row")

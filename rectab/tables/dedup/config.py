"""How many blocks are kept, and how many a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family

__all__ = ["DedupConfig", "SharedBlocksConfig", "blocks_of", "dedup_family"]


@dataclass(frozen=True)
class SharedBlocksConfig:
    """Attributes:
    kept: blocks there are.
    block: rows of a block.
    """

    kept: int = field(metadata={"planned": True})
    block: int = 8

    def __post_init__(self) -> None:
        if min(self.kept, self.block) < 1:
            raise ValueError(f"dedup: kept and block must be at least 1, got {self}")


@dataclass(frozen=True)
class DedupConfig(SharedBlocksConfig):
    """Attributes:
    fine_tune_epochs: most epochs after sharing; 0 serves the table as it was shared, None takes the trainer's limit.
    """

    fine_tune_epochs: int | None = None


def blocks_of(vocabularies: Sequence[Vocabulary], block: int) -> list[int]:
    """Blocks of ids of every vocabulary."""
    return [-(-v.num_embeddings // block) for v in vocabularies]


def dedup_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    block: int = 8,
    fine_tune_epochs: int | None = None,
) -> Family[DedupConfig]:
    """By blocks kept; all of them without a budget."""
    if block < 1:
        raise ValueError(f"dedup: block must be at least 1, got {block}")
    return Family(
        lambda kept: DedupConfig(kept, block, fine_tune_epochs),
        low=1,
        high=sum(blocks_of(vocabularies, block)),
        smallest="one block, and an integer for every block of ids",
    )

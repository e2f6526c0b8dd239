"""What a dynamic table looks like: rows of every vocabulary, who is admitted, who makes place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rectab.ops.slots import Admit, Evict, SlotRule
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows

__all__ = ["DynamicConfig", "dynamic_family"]

_PLANNED: Any = {"planned": True}
_MOST_COUNTED = 255
_FEWEST_RESERVED = 8  # as far as half of the rows allow


@dataclass(frozen=True)
class DynamicConfig:
    """Attributes:
    num_rows: rows of every vocabulary, in schema order, the reserved ones among them.
    sketch_width: cells in each of the four rows of the sketch; 0 without.
    evict, ttl, decay, max_probe: who makes place, see :class:`rectab.ops.slots.SlotRule`.
    admit, probability, count: who is admitted, see there.
    reserved_share: share of a vocabulary's rows (8 at least, half at most) that ids without a row of their own share by
        their hash; with 0 they read the row that their hash says, whosoever it is, as by torchrec's rule.
    absent: what an id without a row reads: ``rows`` a reserved row, which it trains, or ``zero``, which nobody trains.
    start: what a row holds when an id gets it: ``fresh`` initial values, or ``shared``, what the id has read so far.
    whole_below: a vocabulary of at most so many ids gets a row an id, as far as the budget reaches.
    seed: of chance and sketch. Slots have no seed: torchrec's have none.
    """

    num_rows: tuple[int, ...] = field(metadata=_PLANNED)
    sketch_width: int = field(default=0, metadata=_PLANNED)
    evict: Evict = "lru"
    ttl: int = 0
    decay: float = 1.0
    admit: Admit = "always"
    probability: float = 0.1
    count: int = 2
    max_probe: int = 128
    reserved_share: float = 0.02
    absent: Literal["rows", "zero"] = "rows"
    start: Literal["fresh", "shared"] = "fresh"
    whole_below: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ttl", "decay", "seed", "sketch_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"dynamic: {name} must be at least 0, got {getattr(self, name)}")
        if self.evict == "ttl" and self.ttl < 1:
            raise ValueError(
                "dynamic: evict 'ttl' needs ttl, how long an unused id keeps its row in units of the clock"
            )
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"dynamic: probability must be in (0, 1], got {self.probability}")
        if not 0.0 <= self.reserved_share <= 0.5:
            raise ValueError(f"dynamic: reserved_share must be in 0..0.5, got {self.reserved_share}")
        if not 1 <= self.count <= _MOST_COUNTED:
            raise ValueError(f"dynamic: count must be in 1..{_MOST_COUNTED}, got {self.count}")
        for name in ("max_probe", "whole_below"):
            if getattr(self, name) < 1:
                raise ValueError(f"dynamic: {name} must be at least 1, got {getattr(self, name)}")
        if self.start == "shared" and (self.reserved_share == 0 or self.absent == "zero"):
            raise ValueError(
                "dynamic: start 'shared' needs reserved rows (reserved_share) that are read (absent 'rows')"
            )

    def rule(self, salt: int) -> SlotRule:
        """The rule of the slots."""
        chosen = (self.evict, self.ttl, self.decay, self.admit, self.probability, self.count, self.max_probe)
        return SlotRule(*chosen, salt=salt)

    def reserved(self, vocabulary: Vocabulary, rows: int) -> int:
        """Of the rows of a vocabulary, those that hold no id."""
        if not vocabulary.hashed and rows >= vocabulary.num_embeddings:
            return 0
        return min(rows // 2, max(_FEWEST_RESERVED, int(rows * self.reserved_share))) if self.reserved_share else 0


def dynamic_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[DynamicConfig]:
    """Rows of all vocabularies together, shared out as those of ``hashed``; a row an id without a budget.

    With ``admit = "count"`` the sketch has half a cell a row in each of its four rows: two bytes a row.
    """
    chosen = DynamicConfig((), **settings)
    sizes = [v.num_embeddings for v in vocabularies]

    def config_of(total: int) -> DynamicConfig:
        width = max(64, total // 2) if chosen.admit == "count" else 0
        return DynamicConfig(allocate_rows(sizes, total, chosen.whole_below), width, **settings)

    return Family(config_of, low=len(sizes), high=sum(sizes), smallest="one row a vocabulary")

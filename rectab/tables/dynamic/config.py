"""What a dynamic table looks like: rows of every vocabulary, who is admitted, who makes place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rectab.ops.slots import Admit, Evict, SlotRule
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows

__all__ = ["COUNTING", "DynamicConfig", "dynamic_family"]

COUNTING = ("lfu", "distance_lfu")
"""Rules of eviction that keep a count a row."""

_PLANNED: Any = {"planned": True}
_MOST_COUNTED = 255
_FEWEST_RESERVED = 8  # as far as half of the rows allow
_NARROWEST = 2  # elements of a row, where a budget chooses


@dataclass(frozen=True)
class DynamicConfig:
    """Attributes:
    num_rows: rows of every vocabulary, in schema order, the reserved ones among them.
    sketch_width: cells in each of the four rows of the sketch; 0 without.
    width: elements of a row, of which zeros make D; 0 for D. More ids have rows of their own in as many bytes. Where it
        is not given, the budget chooses, see :func:`dynamic_family`.
    pool: vocabularies that are not kept whole share their rows, so that those get more whose ids come more often; what
        stands in ``identities`` is then a mix of id and vocabulary, and a row takes 1 byte more (2 for 256 or more
        vocabularies) that says whose it is. False gives every vocabulary rows of its own.
    evict, ttl, decay, half_life, max_probe: who makes place, see :class:`rectab.ops.slots.SlotRule`.
    admit, probability, count: who is admitted, see there.
    reserved_share: share of a vocabulary's rows (8 at least, half at most) that ids without a row of their own share by
        their hash; with 0 they read the row that their hash says, whosoever it is, as by torchrec's rule.
    absent: what an id without a row reads: ``rows`` a reserved row, which it trains, or ``zero``, which nobody trains.
    start: what a row holds when an id gets it: ``fresh`` initial values, ``zero``, or ``shared``, what the id has read
        so far.
    whole_below: a vocabulary of at most so many ids gets a row an id, as far as the budget reaches.
    seed: of chance and sketch. Slots have no seed: torchrec's have none.
    """

    num_rows: tuple[int, ...] = field(metadata=_PLANNED)
    sketch_width: int = field(default=0, metadata=_PLANNED)
    width: int = 0
    pool: bool = True
    evict: Evict = "lru"
    ttl: int = 0
    decay: float = 1.0
    half_life: float = 0.0
    admit: Admit = "always"
    probability: float = 0.1
    count: int = 2
    max_probe: int = 128
    reserved_share: float = 0.02
    absent: Literal["rows", "zero"] = "zero"
    start: Literal["small", "fresh", "zero", "shared"] = "small"
    whole_below: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ttl", "decay", "half_life", "seed", "sketch_width", "width"):
            if getattr(self, name) < 0:
                raise ValueError(f"dynamic: {name} must be at least 0, got {getattr(self, name)}")
        if self.evict == "ttl" and self.ttl < 1:
            raise ValueError(
                "dynamic: evict 'ttl' needs ttl, how long an unused id keeps its row in units of the clock"
            )
        if self.half_life and self.evict != "lfu":
            raise ValueError(f"dynamic: half_life is of evict 'lfu', not of {self.evict!r}")
        if self.admit == "better" and self.evict not in COUNTING:
            raise ValueError(f"dynamic: admit 'better' compares counts; evict {self.evict!r} keeps none, 'lfu' does")
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
        return SlotRule(*chosen, salt=salt, half_life=self.half_life)

    def layout(self, vocabularies: Sequence[Vocabulary]) -> list[tuple[int, int, int]]:
        """(first row, rows, reserved rows) of every vocabulary, see :class:`rectab.ops.slots.Blocks`; those that share
        their rows come last."""
        held = list(zip(vocabularies, self.num_rows, strict=True))
        whole = [not v.hashed and rows >= v.num_embeddings for v, rows in held]
        together = sum(rows for rows, alone in zip(self.num_rows, whole, strict=True) if not alone)
        found, first = [], 0
        for rows, alone in zip(self.num_rows, whole, strict=True):
            found.append((first, -rows if alone else rows, 0 if alone else self._reserved(rows)))
            first += rows if alone or not self.pool else 0
        if not self.pool:
            return found
        return [block if alone else (first, together, self._reserved(together))
                for block, alone in zip(found, whole, strict=True)]  # fmt: skip

    def _reserved(self, rows: int) -> int:
        """Of the rows of a block, those that hold no id; one where nobody reads them, which stands for none."""
        if self.reserved_share == 0:
            return 0
        least = 1 if self.absent == "zero" else max(_FEWEST_RESERVED, int(rows * self.reserved_share))
        return min(rows // 2, least)


def dynamic_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[DynamicConfig]:
    """Rows of all vocabularies together, shared out as those of ``hashed``; a row an id of D elements without a budget.

    Where no width is given, rows have D / 8 elements (2 at least) until every id has one, and are wider from there on:
    what a short life teaches fits in few elements, and an id that has no row has learned nothing.
    With ``admit = "count"`` or ``"better"`` the sketch has half a cell a row in each of its four rows: two bytes a row.
    """
    chosen = DynamicConfig((), **settings)
    sizes = [v.num_embeddings for v in vocabularies]
    narrow = min(embedding_dim, max(_NARROWEST, embedding_dim // 8))
    widths = range(narrow, embedding_dim + 1) if "width" not in settings else [chosen.width]

    def config_of(knob: int) -> DynamicConfig:
        total = min(knob, sum(sizes))
        cells = max(64, total // 2) if chosen.admit in ("count", "better") else 0
        rows = allocate_rows(sizes, total, chosen.whole_below)
        return replace(chosen, num_rows=rows, sketch_width=cells, width=widths[knob - total])

    return Family(config_of, low=len(sizes), high=sum(sizes) + len(widths) - 1, smallest="one row a vocabulary")

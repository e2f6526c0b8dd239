"""Configs of OptEmbed's supernet and of the compact table that its training ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CompactOptEmbedConfig", "OptEmbedConfig", "Pruned"]

Pruned = Literal["zero", "shared"]


@dataclass(frozen=True)
class OptEmbedConfig:
    """Attributes:
    budget_bytes: most bytes of the serving form; None leaves the size to the learned thresholds, as in the paper.
    search_rows: learn which rows to keep. Without it this is the paper's OptEmbed-E.
    search_dims: learn how wide every vocabulary's rows are. Without it this is the paper's OptEmbed-F.
    pruned: vector of a pruned id: ``zero``, or ``shared``: one trained vector a vocabulary (the authors' ``oov``).
    alpha: weight of the term ``sum(exp(-threshold))`` that pushes thresholds up.
    threshold_lr: learning rate of the thresholds, which have their own SGD.
    population: candidates of a generation of the search: half mutations, half crossovers.
    generations: of the search.
    parents: best candidates so far that the next generation is made from.
    mutation_probability: that a mutation draws a vocabulary's width anew.
    evaluation_rows: validation rows that candidates are compared on, in whole batches, drawn once; 0 takes all.
    patience: generations without a better candidate after which the search ends.
    seed: of the search, added to the table's own seed.
    """

    budget_bytes: int | None = field(default=None, metadata={"planned": True})
    search_rows: bool = True
    search_dims: bool = True
    pruned: Pruned = "zero"
    alpha: float = 1e-4
    threshold_lr: float = 1e-4
    population: int = 20
    generations: int = 30
    parents: int = 10
    mutation_probability: float = 0.1
    evaluation_rows: int = 8192
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.search_rows or self.search_dims):
            raise ValueError("optembed: search_rows or search_dims must be on")
        if self.pruned not in ("zero", "shared"):
            raise ValueError(f"optembed: pruned must be 'zero' or 'shared', got {self.pruned!r}")
        if self.pruned == "shared" and not self.search_rows:
            raise ValueError("optembed: pruned='shared' needs search_rows; without it no row is pruned")
        for name in ("population", "generations", "parents", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"optembed: {name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.mutation_probability <= 1.0:
            raise ValueError(f"optembed: mutation_probability must be in (0, 1], got {self.mutation_probability}")
        for name in ("alpha", "threshold_lr", "evaluation_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"optembed: {name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class CompactOptEmbedConfig:
    """Attributes:
    num_rows: kept rows of every vocabulary.
    widths: kept dimensions of every vocabulary; 0 where it keeps no row.
    pruned: see :class:`OptEmbedConfig`.
    """

    num_rows: tuple[int, ...]
    widths: tuple[int, ...]
    pruned: Pruned = "zero"

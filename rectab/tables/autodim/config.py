"""Config of AutoDim's search, and the table of the widths it finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from rectab.tables.findings import Finding
from rectab.tables.mde import MDEConfig, MDETable
from rectab.tables.registry import TableMethod, register

__all__ = ["FORM", "AutoDimConfig", "CompactAutoDimTable"]

FORM = "autodim.compact"


@dataclass(frozen=True)
class AutoDimConfig:
    """Attributes:
    budget_bytes: most bytes of the widths that are chosen; None takes the likeliest of every vocabulary, as the paper.
    widths: candidates; 0 stands for D, and what is wider is left out.
    alpha_lr: step of the logits, whose gradient has mean size 1 in every vocabulary.
    anneal: by how much the temperature falls in a step, from 1 to 0.01.
    search_epochs: most epochs of the search; None takes the trainer's limit.
    """

    budget_bytes: int | None = field(default=None, metadata={"planned": True})
    widths: tuple[int, ...] = (1, 2, 4, 8, 0)
    alpha_lr: float = 0.01
    anneal: float = 5e-5
    search_epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 0 or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"autodim: widths must be distinct numbers of dimensions, got {self.widths}")
        if min(self.alpha_lr, self.anneal) < 0 or (self.search_epochs or 1) < 1:
            raise ValueError(f"autodim: alpha_lr, anneal and search_epochs must not be negative, got {self}")

    def candidates(self, embedding_dim: int) -> list[int]:
        """Ascending."""
        widths = sorted({width or embedding_dim for width in self.widths})
        return [width for width in widths if width <= embedding_dim] or [embedding_dim]


class CompactAutoDimTable(MDETable):
    """Rows of the widths that were found, and a matrix for every vocabulary narrower than D."""

    findings: tuple[Finding, ...] = ()

    def learned(self) -> tuple[Finding, ...]:
        return self.findings


register(TableMethod(FORM, "rows of the widths that were found", MDEConfig, CompactAutoDimTable))

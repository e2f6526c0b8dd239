"""Configs of DNIS's soft-selected table and of the two tables that its training ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rectab.tables.entries import EntriesConfig

__all__ = ["DNISConfig", "SparseDNISConfig", "StructuredDNISConfig"]

Form = Literal["auto", "structured", "sparse"]
Schedule = Literal["dnis", "autosrh"]


@dataclass(frozen=True)
class DNISConfig:
    """Attributes:
    budget_bytes: most bytes of the serving form; None keeps all that the search did not select away.
    form: of serving: ``structured`` (whole dimensions of a block go), ``sparse`` (single entries go), or ``auto``:
        whichever keeps more of the table's magnitude.
    blocks: share of the ids in every block, the most frequent ids first.
    alpha_lr: step of the soft selection; its gradient has mean size 1 in every block.
    l1: pull of the soft selection towards 0, in units of that gradient. The default is the authors' number for
        gradients as they are; here it is next to nothing, and 0.1 is felt.
    second_order: differentiate also through the embeddings' own step (DARTS's finite differences).
    inner_lr: learning rate of that step, which is one of plain gradient descent. The term is proportional to it: at
        the default it is a few hundredths of a percent of the gradient. Its finite differences want fp32 training.
    warm_epochs: most epochs with the selection fixed at 1; None takes the trainer's limit.
    search_epochs: most epochs of the search.
    fine_tune_epochs: most epochs after pruning; 0 serves the table as it was pruned.
    schedule: ``dnis``, or that of its successor AutoSrh: after the search everything but the selection trains on, and
        single entries are pruned at the very end, with no training after it unless ``fine_tune_epochs`` asks for some.
    retrain_epochs: most epochs of that training; None takes the trainer's limit.
    """

    budget_bytes: int | None = field(default=None, metadata={"planned": True})
    form: Form = "auto"
    blocks: tuple[float, ...] = (0.1, 0.2, 0.2, 0.2, 0.3)
    alpha_lr: float = 0.01
    l1: float = 1e-5
    second_order: bool = False
    inner_lr: float = 1e-3
    warm_epochs: int | None = None
    search_epochs: int | None = None
    fine_tune_epochs: int | None = None
    schedule: Schedule = "dnis"
    retrain_epochs: int | None = None

    @property
    def served_form(self) -> Form:
        """``form``, as far as the schedule leaves a choice."""
        return "sparse" if self.schedule == "autosrh" else self.form

    def __post_init__(self) -> None:
        if self.form not in ("auto", "structured", "sparse"):
            raise ValueError(f"dnis: form must be 'auto', 'structured' or 'sparse', got {self.form!r}")
        if self.schedule not in ("dnis", "autosrh"):
            raise ValueError(f"dnis: schedule must be 'dnis' or 'autosrh', got {self.schedule!r}")
        if self.schedule == "autosrh" and self.form == "structured":
            raise ValueError("dnis: autosrh prunes single entries; leave form at auto")
        if not 1 <= len(self.blocks) <= 256 or min(self.blocks) <= 0 or abs(sum(self.blocks) - 1) > 1e-6:
            raise ValueError(f"dnis: blocks must be 1 to 256 positive shares that sum to 1, got {self.blocks}")
        for name in ("alpha_lr", "l1", "inner_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"dnis: {name} must be at least 0, got {getattr(self, name)}")
        for name, least in (
            ("warm_epochs", 1),
            ("search_epochs", 1),
            ("retrain_epochs", 1),
            ("fine_tune_epochs", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"dnis: {name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class StructuredDNISConfig:
    """Attributes:
    num_rows: ids of every block that keeps a dimension.
    columns: kept dimensions of each of them.
    """

    num_rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


SparseDNISConfig = EntriesConfig

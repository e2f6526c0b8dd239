"""Tables that train in full and are served as their largest entries: what pruning methods share.

They differ in when entries go and in what is trained afterwards. What is served, how a budget is hit and what is told
of it is the same, and is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.entries import (
    EntriesConfig,
    EntriesTable,
    entries_bytes,
    entries_within,
    kept_shares,
    largest_entries,
)
from rectab.tables.family import Family
from rectab.tables.findings import Finding, by_decile, by_vocabulary, curve
from rectab.tables.learned import Curve, share_by_decile
from rectab.tables.ledger import Ledger, bound
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, build_table, register

if TYPE_CHECKING:
    from rectab.tables.staged import StageRunner

__all__ = ["GradualTable", "MagnitudeConfig", "MagnitudeTable", "SparseTable", "magnitude_family"]

_FORM = "pruned.sparse"


@dataclass(frozen=True)
class MagnitudeConfig:
    """Attributes:
    budget_bytes: most bytes of the serving form; None keeps all that the method leaves.
    fine_tune_epochs: most epochs after pruning; 0 serves the table as it was pruned, None takes the trainer's limit.
    """

    budget_bytes: int | None = field(default=None, metadata={"planned": True})
    fine_tune_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.fine_tune_epochs is not None and self.fine_tune_epochs < 0:
            raise ValueError(f"fine_tune_epochs must be at least 0, got {self.fine_tune_epochs}")


class SparseTable(EntriesTable[EntriesConfig]):
    """What pruning methods are served as."""


ConfigT = TypeVar("ConfigT", bound=MagnitudeConfig)


class MagnitudeTable(RangeTable[ConfigT]):
    """One row an id while it trains; its largest entries within the budget, wherever they are, as it is served.

    Memory while training: the full table. Pruning holds a copy of the rows and their sizes besides.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        super().__init__(vocabularies, embedding_dim, config, options, sizes, seed=0, learns_steps=False)

    def rows(self) -> Tensor:
        """float [N, D]: a copy of the rows as they would be served."""
        return self.store.read(slice(0, self.store.num_rows))

    def kept_entries(self, rows: Tensor) -> Tensor:
        """int64 [k], ascending: which entries of ``rows`` are served."""
        return largest_entries(rows, self.capacity())

    def capacity(self) -> int:
        """Entries that the budget holds; all without one."""
        return entries_within(
            self.config.budget_bytes, _FORM, self.vocabularies, self.embedding_dim, self._counted_options()
        )

    def _counted_options(self) -> TableOptions:
        return replace(self.options, device="meta")

    def planned_serving(self) -> Ledger:
        """The most that training may end in: the budget, or everything kept."""
        return bound(self.config.budget_bytes, *_size_range(self.vocabularies, self.embedding_dim, self.options))

    def bytes_between_stages(self) -> int:
        """Pruning holds a copy of the rows in fp32, their sizes, a mask, and the table it ends in."""
        entries = self.store.num_rows * self.embedding_dim
        return self.ledger().bytes + 9 * entries + self.planned_serving().bytes

    def serving(self) -> SparseTable:
        """The largest entries of the table as it is."""
        rows = self.rows()
        return self.served_from(rows, self.kept_entries(rows))

    @torch.no_grad()
    def served_from(self, rows: Tensor, entries: Tensor) -> SparseTable:
        """The serving form of ``entries``, with their values in ``rows`` [N, D]."""
        if not entries.numel():
            raise ValueError(f"{self.method}: every entry was pruned; ask for a budget, or for more of it")
        config = EntriesConfig(entries.numel())
        table = build_table(_FORM, self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, SparseTable)
        table.fill(entries, rows)
        table.findings = self.findings(kept_shares(entries, rows.shape))
        return table

    def train_from(self, served: SparseTable, trainer: StageRunner) -> None:
        """Go on with ``served`` and the network as it is."""
        trainer.restart(served, trainer.model.state_dict())
        if self.config.fine_tune_epochs != 0:
            trainer.run("fine-tune", max_epochs=self.config.fine_tune_epochs)

    def findings(self, kept: Tensor) -> tuple[Finding, ...]:
        """What pruning decided; ``kept`` float64 [N] is the share of every row's entries that is left."""
        by_field = {
            v.name: float(part.mean()) for v, part in zip(self.vocabularies, kept.split(self.range_sizes), strict=True)
        }
        found = [
            by_vocabulary(
                "Entries kept per field", "Per cent of every vocabulary's entries.", "entries", by_field, share=True
            )
        ]
        deciles = share_by_decile(self.vocabularies, kept)
        if deciles is not None:
            note = "Per cent of the entries kept in every tenth of the ids, the most frequent tenth on the left."
            found.insert(0, by_decile("Entries kept by id frequency", note, "entries", deciles))
        return tuple(found)


class GradualTable(MagnitudeTable[ConfigT]):
    """A table whose entries go one after another while it trains, with a curve of how many there are left."""

    kept_curve: Curve

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        self.kept_curve = Curve(1, device=self.options.device)

    def records(self) -> tuple[str, ...]:
        return self.kept_curve.names("kept_curve")

    def findings(self, kept: Tensor) -> tuple[Finding, ...]:
        steps, shares = self.kept_curve.points()
        if not steps:
            return super().findings(kept)
        note = "Share of the entries that are not zero, by step of the stage that prunes."
        over_time = curve("Entries left over training", note, ("step", "share"), steps, ["entries"], shares)
        return (*super().findings(kept), over_time)


def _size_range(vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions) -> tuple[int, int]:
    """Bytes of the smallest serving form, and bytes that none exceeds."""
    total = embedding_dim * sum(v.num_embeddings for v in vocabularies)
    counted = replace(options, device="meta")
    sizes = [
        entries_bytes(_FORM, vocabularies, embedding_dim, count, counted) for count in (1, max(total - 1, 1), total)
    ]
    return min(sizes), max(sizes)


def magnitude_family(
    config: type[ConfigT], vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, settings: Any
) -> Family[ConfigT]:
    """By the bytes that entries are kept in."""
    own = config(**settings)
    low, high = _size_range(vocabularies, embedding_dim, options)
    return Family(
        lambda size: replace(own, budget_bytes=size), low=low, high=high, own=lambda: own, smallest="a single entry"
    )


register(TableMethod(_FORM, "single entries", EntriesConfig, SparseTable))

"""PEP: thresholds below which entries are zero, learned with the table; then a lottery ticket is trained.

Liu et al., "Learnable Embedding Sizes for Recommender Systems", ICLR 2021. An entry v is read as
``sign(v) relu(|v| - sigmoid(s))``. What is above its threshold when few enough entries are left is trained again from
the values it had at the start (section 3.4): what is learned is where entries are, not what they are.

In the paper a decay of s towards 0 moves thresholds up, and the gradient of the loss holds them where entries matter.
From its start at -150 (the authors' code), where fp32 knows neither sigmoid nor slope, the decay is all there is, and
Adam makes it the same step for every s. So here one level rises for all by ``rise`` a step, from where thresholds begin
to bite, and each threshold learns its distance from that level by gradient. What a batch did not read costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rectab.ops.replay import Clock
from rectab.ops.step import Step
from rectab.optim import Adam, RowOptimizer, RowRule
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.learned import slices_of
from rectab.tables.magnitude import GradualTable, MagnitudeConfig, magnitude_family
from rectab.tables.registry import TableMethod, register

if TYPE_CHECKING:
    from rectab.tables.staged import StageRunner

__all__ = ["PEPConfig", "PEPTable"]

_EVERY = 10  # steps between two counts of what is left


@dataclass(frozen=True)
class PEPConfig(MagnitudeConfig):
    """Attributes:
    thresholds: one for everything (``global``), for every dimension (``dim``), vocabulary, id, or entry (``id_dim``).
    start: of the level; thresholds are its sigmoid.
    rise: of the level in a step.
    threshold_lr: learning rate of the distances from the level, by Adam.
    search_epochs: most epochs of the search; None takes the trainer's limit.
    rewind: train what is left from its initial values, as in the paper; False goes on with what the search made of it.
    """

    thresholds: Literal["global", "dim", "vocabulary", "id", "id_dim"] = "id_dim"
    start: float = -8.0
    rise: float = 0.01
    threshold_lr: float = 0.01
    search_epochs: int | None = None
    rewind: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds not in ("global", "dim", "vocabulary", "id", "id_dim"):
            raise ValueError(f"pep: thresholds must be global, dim, vocabulary, id or id_dim, got {self.thresholds!r}")
        if min(self.rise, self.threshold_lr) < 0 or (self.search_epochs or 1) < 1:
            raise ValueError(f"pep: rise and threshold_lr must be at least 0 and search_epochs at least 1, got {self}")
        if self.rewind and self.fine_tune_epochs == 0:
            raise ValueError("pep: fine_tune_epochs=0 would serve untrained entries; give rewind=False with it")
        if not -80.0 <= self.start <= 0.0:
            raise ValueError(f"pep: start must be in -80..0, where fp32 knows the sigmoid's slope, got {self.start}")


class ThresholdRule(Adam):
    """Adam at a rate of its own, without the penalty of the rows: it would hold every threshold at the level."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        return super().update(values, step.gradients, state, replace(step, lr=self.lr))

    def replay(self, values: Tensor, state: dict[str, Tensor], seen: Tensor, clock: Clock) -> Tensor:
        return values


class PEPTable(GradualTable[PEPConfig]):
    """The full table under soft thresholds.

    Memory while training: the full table and, with a threshold an entry, as much again, both with optimizer state.
    """

    level: Tensor
    num_left: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: PEPConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        count, device = self.store.num_rows, self.options.device
        rows = {"id": count, "id_dim": count, "vocabulary": len(self.vocabularies)}.get(config.thresholds, 1)
        width = embedding_dim if config.thresholds in ("dim", "id_dim") else 1
        self.distance = self.options.row_store(rows, width, init_std=0.0)
        self.register_buffer("level", torch.tensor(config.start, device=device))
        self.register_buffer("num_left", torch.tensor(count * embedding_dim, device=device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows = self.address(ids, vocabulary)
        of = vocabulary.expand(ids.shape) if self.config.thresholds == "vocabulary" else rows
        distance = self.distance(of if self.distance.num_rows > 1 else torch.zeros_like(rows))
        return _soften(self.store(rows), (self.level + distance).sigmoid())

    def _thresholds_of(self, part: slice) -> Tensor:
        """float [n, 1 or D]: thresholds of consecutive rows of the table."""
        if self.config.thresholds == "vocabulary":
            sizes = torch.tensor(self.range_sizes, device=self.device)
            owner = torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)
            distance = self.distance.read(owner[part])
        else:
            distance = self.distance.read(part if self.distance.num_rows > 1 else slice(0, 1))
        return (self.level + distance).sigmoid()

    @torch.no_grad()
    def rows(self) -> Tensor:
        rows = super().rows()
        for part in slices_of(self.store.num_rows):
            rows[part] = _soften(rows[part], self._thresholds_of(part))
        return rows

    @torch.no_grad()
    def margins(self) -> Tensor:
        """float [N, D]: by how much every entry exceeds its threshold; negative where it is zero."""
        rows = super().rows().abs()
        for part in slices_of(self.store.num_rows):
            rows[part] -= self._thresholds_of(part)
        return rows

    @torch.no_grad()
    def kept_entries(self, rows: Tensor) -> Tensor:
        """Those above their thresholds, or as many as the budget holds, by what they are above or below."""
        margins = self.margins()
        if self.config.budget_bytes is None:
            return (margins.reshape(-1) > 0).nonzero().squeeze(1)
        return super().kept_entries(margins - margins.min() + 1e-6)

    @torch.no_grad()
    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        self.level += self.config.rise
        if step % _EVERY:
            return
        if optimizer is not None:
            optimizer.catch_up()  # rows that were away have not shrunk yet
        self.num_left.copy_((self.margins() > 0).sum())
        self.kept_curve.add(step // _EVERY, self.num_left / (self.store.num_rows * self.embedding_dim))

    def rules(self) -> dict[str, RowRule]:
        return {"distance": ThresholdRule(self.config.threshold_lr)}

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Search until few enough entries are left (without a budget: until validation stops improving), then train
        these with a fresh network, from where they started."""
        budget, most = self.config.budget_bytes, self.capacity()
        until = None if budget is None else lambda: bool(self.num_left <= most)
        trainer.run("search", max_epochs=self.config.search_epochs, until=until)
        rows = self.rows()
        entries = self.kept_entries(rows)
        if not self.config.rewind:
            self.train_from(self.served_from(rows, entries), trainer)
            return trainer.table
        start = type(self)(self.vocabularies, self.embedding_dim, self.config, self.options)
        trainer.restart(self.served_from(start.store.read(slice(0, start.store.num_rows)), entries))
        trainer.run("retrain", max_epochs=self.config.fine_tune_epochs)
        return trainer.table


def _soften(values: Tensor, thresholds: Tensor) -> Tensor:
    return values.sign() * torch.relu(values.abs() - thresholds)


def pep_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[PEPConfig]:
    """See :func:`rectab.tables.magnitude.magnitude_family`."""
    return magnitude_family(PEPConfig, vocabularies, embedding_dim, options, settings)


register(
    TableMethod(
        name="pep",
        summary="learned thresholds below which entries are zero",
        group="pruning",
        paper="Liu et al., ICLR 2021",
        config=PEPConfig,
        table=PEPTable,
        family=pep_family,
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

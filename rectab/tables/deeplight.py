"""DeepLight: magnitude pruning while the table trains, by a share that grows fast at first and slowly at the end.

Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR Predictions in Ad Serving", WSDM
2021, section 4.2, for the embeddings; the paper prunes the network besides, which is no table's business. The n-th
pruning leaves ``1 - S (1 - damping^(n / omega))`` of the entries, S being the share that has to go in the end. Entries
that were pruned go on training and come back if they grow, until the last pruning, which fills the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.learned import slices_of
from rectab.tables.magnitude import GradualTable, MagnitudeConfig, magnitude_family
from rectab.tables.registry import TableMethod, register

if TYPE_CHECKING:
    from rectab.optim import RowOptimizer
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

__all__ = ["DeepLightConfig", "DeepLightTable", "sparsity_after"]

_SAMPLED = 1 << 20  # entries that a threshold is found from
_LEFT = 0.01  # of the share that has to go, at the end of the stage


@dataclass(frozen=True)
class DeepLightConfig(MagnitudeConfig):
    """Attributes:
    density: share of the entries that is kept without a budget; a budget decides instead of it.
    every: steps between two prunings.
    damping: base of the schedule.
    omega: prunings after which what is left of the way has shrunk by ``damping``; None chooses it so that 99 % of the
        way are behind at the end of the stage. The authors' is 100, for 10^5 steps.
    warm_epochs: most epochs before the first pruning; None takes the trainer's limit.
    prune_epochs: epochs of the stage that prunes.
    """

    density: float = 0.1
    every: int = 10
    damping: float = 0.99
    omega: float | None = None
    warm_epochs: int | None = None
    prune_epochs: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0.0 < self.density <= 1.0 and 0.0 < self.damping < 1.0):
            raise ValueError(
                f"deeplight: density must be in (0, 1] and damping in (0, 1), got {self.density} and {self.damping}"
            )
        if min(self.every, self.prune_epochs, self.warm_epochs or 1) < 1 or (self.omega or 1) <= 0:
            raise ValueError(f"deeplight: every, omega, warm_epochs and prune_epochs must be positive, got {self}")


def sparsity_after(prunings: int, target: float, damping: float, omega: float) -> float:
    """Share of the entries that is zero after so many prunings: equation 8 of the paper."""
    return target * (1.0 - damping ** (prunings / omega))


class DeepLightTable(GradualTable[DeepLightConfig]):
    """The full table; every few steps its smallest entries are set to zero, more of them each time."""

    _omega: float | None = None
    """Of the schedule, while a stage prunes."""

    def capacity(self) -> int:
        if self.config.budget_bytes is not None:
            return super().capacity()
        return max(1, round(self.config.density * self._num_entries))

    @property
    def _num_entries(self) -> int:
        return self.store.num_rows * self.embedding_dim

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train in full, prune more and more, cut to the budget, and train what is left."""
        config = self.config
        trainer.run("warm up", max_epochs=config.warm_epochs)
        prunings = max(config.prune_epochs * trainer.steps_per_epoch // config.every, 1)
        self._omega = config.omega or prunings * math.log(config.damping) / math.log(_LEFT)
        trainer.run("prune", max_epochs=config.prune_epochs, until=lambda: False)
        self._omega = None
        self.train_from(self.serving(), trainer)
        return trainer.table

    @torch.no_grad()
    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        if self._omega is None or step % self.config.every:
            return
        if optimizer is not None:
            optimizer.catch_up()  # rows that were away have not shrunk yet
        target = 1.0 - self.capacity() / self._num_entries
        share = sparsity_after(step // self.config.every, target, self.config.damping, self._omega)
        self.kept_curve.add(step // self.config.every, torch.tensor([self.prune(share)]))

    @torch.no_grad()
    def prune(self, share: float) -> float:
        """Set the smallest ``share`` of all entries to zero, as near as a sample of a million tells; returns what is
        left."""
        cut, left = self._size_at(share), 0
        for part in slices_of(self.store.num_rows):
            values = self.store.read(part)
            gone = values.abs() <= cut
            self.store.write(part, values.masked_fill_(gone, 0.0))
            left += gone.numel() - int(gone.sum())
        return left / self._num_entries

    def _size_at(self, share: float) -> float:
        """The size that so many of the entries do not exceed; -1 if that is none of them."""
        stride = -(-self.store.num_rows // max(_SAMPLED // self.embedding_dim, 1))
        sizes = self.store.read(slice(0, self.store.num_rows, stride)).abs().flatten()
        rank = int(share * sizes.numel())
        return float(sizes.kthvalue(rank).values) if rank else -1.0


def deeplight_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[DeepLightConfig]:
    """See :func:`rectab.tables.magnitude.magnitude_family`."""
    return magnitude_family(DeepLightConfig, vocabularies, embedding_dim, options, settings)


register(
    TableMethod(
        name="deeplight",
        summary="entries pruned while it trains, by a share that grows",
        group="pruning",
        paper="Deng et al., WSDM 2021",
        config=DeepLightConfig,
        table=DeepLightTable,
        family=deeplight_family,
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

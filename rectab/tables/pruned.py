"""Plain magnitude pruning: train the full table, keep its largest entries, fine-tune. The baseline of all pruning.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, on a table alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.magnitude import MagnitudeConfig, MagnitudeTable, magnitude_family
from rectab.tables.registry import TableMethod, register

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

__all__ = ["PrunedConfig", "PrunedTable"]


@dataclass(frozen=True)
class PrunedConfig(MagnitudeConfig):
    """There is nothing to choose but how long it is trained on."""


class PrunedTable(MagnitudeTable[PrunedConfig]):
    """The full table; one threshold for all entries of all vocabularies, once, after training."""

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train, prune, train on. What was pruned is gone, so it stays zero."""
        trainer.run("train")
        self.train_from(self.serving(), trainer)
        return trainer.table


def pruned_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, **settings: Any
) -> Family[PrunedConfig]:
    """See :func:`rectab.tables.magnitude.magnitude_family`."""
    return magnitude_family(PrunedConfig, vocabularies, embedding_dim, options, settings)


register(
    TableMethod(
        name="pruned",
        summary="a trained full table without its smallest entries",
        group="pruning",
        paper="Han et al., NeurIPS 2015",
        config=PrunedConfig,
        table=PrunedTable,
        family=pruned_family,
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
    )
)

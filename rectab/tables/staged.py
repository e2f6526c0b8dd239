"""What a table may ask of the trainer that trains it.

A staged method (OptEmbed, DNIS) overrides ``EmbeddingTable.train_with(trainer)`` and reads like its paper's algorithm
box. The trainer implements this protocol (:mod:`rectab.training.trainer`), so tables never import training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from rectab.batch import Batch
    from rectab.tables.base import EmbeddingTable

__all__ = ["StageRunner"]


class StageRunner(Protocol):
    """One training run of one model, stage by stage.

    The validation split is cut in two when the table's method learns from it: ``search`` is what stages may train on,
    ``valid`` is what selects models. No stage sees the test split.
    """

    @property
    def model(self) -> nn.Module:
        """The CTR model being trained; ``model.table`` is :attr:`table`."""
        ...

    @property
    def table(self) -> EmbeddingTable: ...

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of an epoch."""
        ...

    def run(
        self,
        stage: str,
        *,
        max_epochs: int | None = None,
        loss_terms: Callable[[], Tensor] | None = None,
        frozen: Iterable[nn.Parameter] = (),
        extra_optimizers: Iterable[Any] = (),
        after_step: Callable[[int], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> dict[str, float]:
        """Train until early stopping and restore the best weights; returns the validation metrics of the best.

        Args:
            stage: name, for the history, progress bar and checkpoints.
            max_epochs: limit of this stage; the trainer's own if None.
            loss_terms: added to every batch's loss.
            frozen: parameters that this stage does not update.
            extra_optimizers: torch optimizers over parameters the trainer must not update itself; stepped with it.
            after_step: called with the step number after each update.
            until: for a stage that changes what the table is, as pruning does, so that earlier weights are those of
                another table: no early stopping, and the last weights are kept and not the best. It is asked after
                each update (and ``after_step``) whether the stage is over.
        """
        ...

    def evaluate(self, split: Literal["search", "valid"] = "valid") -> dict[str, float]:
        """Metrics of the current weights (``auc``, ``logloss``, ...)."""
        ...

    def search_batches(self, epoch: int) -> Iterable[Batch]:
        """Shuffled batches of the ``search`` half of validation."""
        ...

    def train_batches(self, epoch: int) -> Iterable[Batch]:
        """Shuffled batches of the training split, for stages that need one beside the batch of their step."""
        ...

    def record_search(self, stage: str, seconds: float, evaluations: int) -> None:
        """Note in the history a stage that evaluated models and trained none, so that its cost counts as training."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch under the current weights, for stages with their own inner loop."""
        ...

    def restart(self, table: EmbeddingTable, model_state: dict[str, Tensor] | None = None) -> None:
        """Go on with ``table`` in a model with fresh weights (or ``model_state`` for all but the table)."""
        ...

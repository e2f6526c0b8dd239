"""Fine-tuning of an encoded table with the model around it; kept only where validation says that it won.

The encoded table before its first step counts as the first evaluation: where one more epoch overfits, fine-tuning of
any kind returns something worse.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models import CTRModel, ModelConfig
from rectab.tables.base import EmbeddingTable
from rectab.tables.full import FullConfig, FullTable
from rectab.tables.quantized import QuantizedTable
from rectab.tables.quantized.tuned import Codes, TunedTable
from rectab.training.compress.encoder import Encoded
from rectab.training.compress.source import FullRun
from rectab.training.compress.widths import Choice
from rectab.training.config import TrainConfig
from rectab.training.result import RunResult
from rectab.training.trainer import Trainer

__all__ = ["FineTune", "Tuned", "fine_tune_choice", "train_full_further"]


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune.

    Attributes:
        codes: what happens to the codes while steps, codebooks and the dense part train, see
            :class:`rectab.tables.quantized.tuned.TunedTable`.
        epochs: at most.
        distill: weight of the full model's predictions as labels, beside the true ones (quantised distillation,
            Polino et al., ICLR 2018): 0 for none, 1 for nothing else.
        lr: learning rate; None for the one the run was trained with.
    """

    codes: Codes = "frozen"
    epochs: int = 10
    distill: float = 0.0
    lr: float | None = None

    @classmethod
    def asked(cls, codes: Codes | None, epochs: int, distill: float) -> FineTune | None:
        """None where ``codes`` is None: nothing is fine-tuned."""
        return None if codes is None else cls(codes, epochs, distill)

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 <= self.distill <= 1:
            raise ValueError(f"epochs must be at least 1 and distill in 0..1, got {self.epochs} and {self.distill:g}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr:g}")


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning gave.

    Attributes:
        encoded: the better one by validation AUC.
        how: as it was asked for.
        before, after: metrics on validation of the table as it was encoded, and tuned and packed again.
        kept: whether ``encoded`` is the tuned one.
        seconds: of training and evaluating.
        history: of the stage.
    """

    encoded: Encoded
    how: FineTune
    before: dict[str, float]
    after: dict[str, float]
    kept: bool
    seconds: float
    history: list[dict[str, Any]] = field(default_factory=list)

    def told_in(self, result: RunResult) -> RunResult:
        """The result of :attr:`encoded`, with what fine-tuning took and gave."""
        encoded = (result.encoded or {}) | {"finetune": self.to_json()}
        return replace(result, encoded=encoded, train_seconds=result.train_seconds + self.seconds)

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"before": self.before, "after": self.after, "kept": self.kept, "seconds": self.seconds}
        return asdict(self.how) | told


class _Distilling(Trainer):
    """Learns from labels and from the predictions of a teacher."""

    teacher: CTRModel | None = None
    distill: float = 0.0

    def loss(self, batch: Batch) -> Tensor:
        if self.teacher is None or self.distill == 0.0:
            return super().loss(batch)
        with torch.no_grad():
            wanted = torch.sigmoid(self.teacher(batch).float())
        outputs = self.model(batch).float()
        assert batch.labels is not None
        labels = (1 - self.distill) * batch.labels + self.distill * wanted
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels)


def _fine_tune(made: Encoded, how: FineTune) -> Tuned:
    """Train what an encoded table holds, and the model around it; ``made`` stays as it is.

    Raises:
        ValueError: its table is not packed in blocks.
    """
    begin = time.perf_counter()
    table = made.model.table
    if not isinstance(table, QuantizedTable):
        raise ValueError(f"fine-tuning is of tables packed in blocks, not of {table.method!r}")
    vectors = made.run.vectors if how.codes == "straight-through" else ()
    trainer = _trainer(made.run, TunedTable.of(table, how.codes, vectors), made.model.state_dict(), how)
    trainer.teacher, trainer.distill = made.run.model.eval(), how.distill
    trainer.run("fine-tune", max_epochs=how.epochs)
    packed = trainer.table.serving()
    trainer.restart(packed, trainer.model.state_dict())
    after = trainer.evaluate()
    kept = after["auc"] > made.valid["auc"]
    encoded = replace(made, model=trainer.model, valid=after) if kept else made
    return Tuned(encoded, how, made.valid, after, kept, time.perf_counter() - begin, trainer.history)


def fine_tune_choice(choice: Choice, how: FineTune) -> tuple[Choice, Tuned]:
    """Train the two best widths, and choose on validation: the wider one, further from what its full table reaches, may
    gain more.

    Raises:
        ValueError: a table is not packed in blocks.
    """
    both = [choice.encoded] if choice.runner_up is None else [choice.encoded, choice.runner_up]
    tuned = [_fine_tune(made, how) for made in both]
    best = max(tuned, key=lambda each: each.encoded.valid["auc"])
    best = replace(best, seconds=sum(each.seconds for each in tuned))
    return replace(choice, encoded=best.encoded), best


def train_full_further(run: FullRun, how: FineTune) -> dict[str, float]:
    """Metrics on validation of the full model of ``run``, trained for as many further epochs: the best of them, itself
    among them."""
    vocabularies, options = run.dataset.schema.vocabularies, run.model.table.options
    table = FullTable(vocabularies, run.embedding_dim, FullConfig(), options)
    trainer = _trainer(run, table, run.model.state_dict(), how)
    table.load_state_dict(run.model.table.state_dict())
    metrics = trainer.run("further", max_epochs=how.epochs)
    return metrics if metrics["auc"] > run.valid["auc"] else run.valid


def _trainer(run: FullRun, table: EmbeddingTable, state: Mapping[str, Tensor], how: FineTune) -> _Distilling:
    config = TrainConfig.from_json(run.result.train)
    if how.lr is not None:
        config = replace(config, lr=how.lr)
    model = ModelConfig.from_json(run.result.model)
    device = run.model.table.device
    trainer = _Distilling(run.dataset, table, model, config, progress="off", split_validation=False, device=device)
    trainer.restart(table, dict(state))
    return trainer

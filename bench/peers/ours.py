"""rectab's training step of a whole model, as its trainer does it."""

from __future__ import annotations

from collections.abc import Sequence

import fuxi
import torch
from rounds import Candidate
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions, plan
from rectab.training import TrainConfig
from rectab.training.optimizers import OptimizerSet

__all__ = ["PRECISIONS", "RectabModel", "rectab_candidates"]

PRECISIONS = ("fp32", "bf16")


class RectabModel:
    """A model over a full table with row Adam, stepped batch by batch.

    Args:
        schema, config: the model.
        embedding_dim: D.
        precision: ``fp32`` or ``bf16``, of the dense part.
        lr: learning rate of everything.
        options: of the table; its seed is also that of the dense part.
        clip_norm: largest norm of all gradients together; None does not clip.
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        embedding_dim: int,
        precision: str,
        lr: float,
        *,
        options: TableOptions | None = None,
        clip_norm: float | None = None,
    ) -> None:
        options = options or TableOptions()
        torch.manual_seed(options.seed)
        table = plan("full", schema.vocabularies, embedding_dim, options=options).build()
        self.model = CTRModel(schema, table, config)
        self.optimizers = OptimizerSet(self.model, TrainConfig(lr=lr, clip_norm=clip_norm))
        self.bf16 = precision == "bf16"

    @property
    def kernel(self) -> str:
        """Implementation of the row kernels."""
        return self.optimizers.kernel

    def step(self, batch: Batch) -> float:
        self.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.model(batch)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.labels)
        value = float(loss.detach())
        self.optimizers.zero_grad()
        loss.backward()
        self.optimizers.step()
        return value

    def predict(self, batches: list[Batch]) -> Tensor:
        """Logits of all rows, in fp32."""
        self.optimizers.catch_up()
        self.model.eval()
        with torch.no_grad():
            return torch.cat([self.model(batch) for batch in batches])


def rectab_candidates(
    schema: Schema, config: ModelConfig, embedding_dim: int, lr: float, batches: Sequence[Batch]
) -> list[Candidate]:
    """One candidate a precision, clipped as FuxiCTR clips."""
    made = []
    for precision in PRECISIONS:
        model = RectabModel(schema, config, embedding_dim, precision, lr, clip_norm=fuxi.MAX_GRADIENT_NORM)
        made.append(Candidate("rectab", "row", model.step, batches, precision, {"kernel": model.kernel}))
    return made

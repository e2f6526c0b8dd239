"""rectab's training step of a whole model, as its trainer does it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions, plan
from rectab.training import TrainConfig
from rectab.training.optimizers import OptimizerSet

__all__ = ["RectabModel"]


class RectabModel:
    """A model over a full table with row Adam, stepped batch by batch.

    Args:
        schema, config: the model.
        embedding_dim: D.
        precision: ``fp32`` or ``bf16``, of the dense part.
        lr: learning rate of everything.
        init_std: standard deviation of initial rows.
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
        init_std: float = 0.01,
        clip_norm: float | None = None,
    ) -> None:
        torch.manual_seed(0)
        options = TableOptions(init_std=init_std)
        table = plan("full", schema.vocabularies, embedding_dim, options=options).build()
        self.model = CTRModel(schema, table, config)
        self.optimizers = OptimizerSet(self.model, TrainConfig(lr=lr, clip_norm=clip_norm))
        self.bf16 = precision == "bf16"

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

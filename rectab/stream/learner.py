"""A model that learns a stream: batches in the order of time, one optimizer from the first to the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables.base import EmbeddingTable
from rectab.tables.remapping import Kept, carry_state
from rectab.training.config import TrainConfig
from rectab.training.errors import TrainingError
from rectab.training.optimizers import OptimizerSet
from rectab.training.state import seed_everything

__all__ = ["Learner"]


class Learner:
    """A model and its optimizers.

    Args:
        schema: the columns.
        table: under the model; one that has a clock (``set_clock``) is told the time of every batch.
        model_config, train_config: as of any run; epochs and early stopping have no meaning here.
    """

    def __init__(
        self, schema: Schema, table: EmbeddingTable, model_config: ModelConfig, train_config: TrainConfig
    ) -> None:
        seed_everything(train_config.seed)
        self.config = train_config
        self.model = CTRModel(schema, table, model_config)
        self.optimizers = OptimizerSet(self.model, train_config)
        self.step = 0

    @property
    def table(self) -> EmbeddingTable:
        return self.model.table

    def train(self, ids: np.ndarray, labels: np.ndarray, times: np.ndarray) -> float:
        """One pass over rows int64 [n, F], float32 [n], int64 [n], in their order; the mean loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.model.train()
        total, size = torch.zeros(()), self.config.batch_size
        tell = getattr(self.table, "set_clock", None)
        for begin in range(0, len(labels), size):
            rows = slice(begin, begin + size)
            if tell is not None:
                tell(int(times[rows][-1]))
            total += self._learn(_batch(ids[rows]), torch.from_numpy(labels[rows]))
        mean = float(total) / max(len(labels), 1)
        if not np.isfinite(mean):
            raise TrainingError(f"loss is {mean} by step {self.step}: training has diverged; try a lower lr")
        return mean

    def _learn(self, batch: Batch, labels: Tensor) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(batch), labels)
        self.optimizers.zero_grad()
        loss.backward()
        self.optimizers.step()
        self.step += 1
        self.table.after_step(self.step, self.optimizers.rows)
        return loss.detach() * len(labels)

    @torch.no_grad()
    def predict(self, ids: np.ndarray) -> np.ndarray:
        """Logits float32 [n]; nothing is learned of these rows."""
        self.optimizers.catch_up()
        self.model.eval()
        size = self.config.evaluation_batch_size
        parts = [self.model(_batch(ids[at : at + size])) for at in range(0, len(ids), size)]
        return torch.cat(parts).numpy()

    def replace_table(self, schema: Schema, table: EmbeddingTable, kept: list[Kept]) -> None:
        """Go on with a remapped table: the dense part, its optimizer and the state of rows that stayed are kept."""
        before, old = self.optimizers, self.model
        before.catch_up()
        self.model = CTRModel(schema, table, old.config)
        outside = {name: t for name, t in old.state_dict().items() if not name.startswith("table.")}
        self.model.load_state_dict(outside, strict=False)
        self.optimizers = OptimizerSet(self.model, self.config)
        for part, optimizer in self.optimizers.by_part.items():
            if part != "rows":
                optimizer.load_state_dict(before.by_part[part].state_dict())
        if before.rows is not None and self.optimizers.rows is not None:
            carry_state(before.rows, self.optimizers.rows, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizers": self.optimizers.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.step = state["step"]


def _batch(ids: np.ndarray) -> Batch:
    return Batch(torch.from_numpy(np.ascontiguousarray(ids)), torch.empty(len(ids), 0))

"""Models small and large as the core alone can train them: row Adam for the table, torch's fused Adam for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.workloads import Workload, model_batches, schema_of
from rectab.batch import Batch, Jagged
from rectab.models import CTRModel, ModelConfig
from rectab.optim import RowAdam
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables import TableOptions, plan

__all__ = ["Task", "Training", "dcnv2_task", "din_task"]

_USERS, _GENRES = 10_000, 20


@dataclass(frozen=True)
class Task:
    """A schema, batches on the CPU, and the model over them."""

    schema: Schema
    batches: Sequence[Batch]
    model: ModelConfig


def dcnv2_task(num_rows: int, batch_size: int, count: int, hidden: tuple[int, ...] = (400, 400, 400)) -> Task:
    """26 features of ``num_rows`` ids together, drawn by a Zipf law."""
    workload = Workload(num_rows, 16, batch_size=batch_size)
    options = {"hidden": hidden, "batch_norm": False, "dropout": 0.0, "cross_layers": 3}
    model = ModelConfig.from_options("dcnv2", "none", options)
    return Task(schema_of(workload), model_batches(workload, count), model)


def din_task(num_rows: int, batch_size: int, count: int, mean_length: int = 50) -> Task:
    """Items out of ``num_rows``, their genres and histories of both, of ``mean_length`` events on average."""
    vocabularies = (Vocabulary("user", _USERS), Vocabulary("item", num_rows), Vocabulary("genre", _GENRES))
    features = (
        Feature("user", "user"),
        Feature("item", "item"),
        Feature("genre", "genre"),
        Feature("clicked_item", "item", "sequence", "click", "item"),
        Feature("clicked_genre", "genre", "sequence", "click", "genre"),
    )
    items = Workload(num_rows, 16, batch_size=batch_size, num_features=1)
    drawn = items.batches(1, seed=3)[0].numel()
    generator = np.random.default_rng(4)
    pool = torch.cat([batch.flatten() for batch in items.batches(-(-count * batch_size * 2 // drawn), seed=3)]).numpy()
    made = [_din_batch(generator, pool, batch_size, mean_length) for _ in range(count)]
    model = ModelConfig.from_options("deepfm", "din", {"hidden": (200, 80)}, {"max_history": None})
    return Task(Schema(vocabularies, features), made, model)


def _din_batch(generator: np.random.Generator, pool: np.ndarray, batch_size: int, mean_length: int) -> Batch:
    lengths = generator.geometric(1 / (mean_length + 1), batch_size) - 1
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    item, events = generator.choice(pool, batch_size), generator.choice(pool, int(offsets[-1]))
    ids = np.stack([generator.integers(0, _USERS, batch_size), item, item % _GENRES], 1)
    histories = {"clicked_item": events, "clicked_genre": events % _GENRES}
    return Batch(
        torch.from_numpy(ids.astype(np.int64)),
        torch.zeros(batch_size, 0),
        {name: Jagged(torch.from_numpy(values.astype(np.int64)), offsets) for name, values in histories.items()},
        labels=torch.from_numpy((generator.random(batch_size) < 0.25).astype(np.float32)),
    )


class Training:
    """A model over a full table in training, stepped batch by batch.

    Args:
        task: model and schema.
        device: where it is trained.
        rows: format of the rows.
        gradient: ``row`` with row Adam, or ``dense`` with torch's fused Adam for the table as well.
        bf16: autocast the dense part.
        seed: of all weights.
        zeros: rows start at zero, where they are trained: for times. Otherwise the table is drawn on the CPU, so that
            one seed starts every device alike.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        *,
        rows: str = "fp32",
        gradient: str = "row",
        bf16: bool = False,
        seed: int = 0,
        lr: float = 1e-3,
        zeros: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        start = {"init_std": 0.0, "device": device} if zeros else {}
        options = TableOptions(gradient=gradient, rows=rows, seed=seed, **start)  # type: ignore[arg-type]
        table = plan("full", task.schema.vocabularies, 16, options=options).build()
        self.model = CTRModel(task.schema, table, task.model).to(device)
        self.bf16 = bf16
        trained = [*self.model.dense_parameters()]
        self.optimizers: list[torch.optim.Optimizer] = []
        if gradient == "row":
            self.optimizers.append(RowAdam(self.model.table.row_stores(), lr=lr, seed=seed))
        else:
            trained += [*self.model.table.dense_parameters(), *(s.weight for _, s in self.model.table.row_stores())]
        self.optimizers.append(torch.optim.Adam(trained, lr=lr, fused=True))

    def step(self, batch: Batch) -> Tensor:
        """One step; the loss, where the model is."""
        assert batch.labels is not None
        with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            scores = self.model(batch)
        loss = nn.functional.binary_cross_entropy_with_logits(scores.float(), batch.labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

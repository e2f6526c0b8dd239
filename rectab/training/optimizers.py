"""The optimizers of a model: one for the dense part, one for the table's rows, one for what else the table trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectab.models import CTRModel
from rectab.optim import Nested, RowAdagrad, RowAdam, RowOptimizer, RowRule, RowSGD, clip_row_gradients
from rectab.processes import current
from rectab.tables.registry import build_table
from rectab.tables.row_counts import row_counts
from rectab.tables.training_bytes import best_bytes
from rectab.training.config import TrainConfig

__all__ = ["OptimizerSet"]

_ROW_OPTIMIZERS: dict[str, Any] = {"adam": RowAdam, "adagrad": RowAdagrad, "sgd": RowSGD}
_DENSE_OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
_SPARSE_OPTIMIZERS = {"adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}


class OptimizerSet:
    """Every optimizer of a stage, stepped together.

    Args:
        model: what is trained; parameters with ``requires_grad=False`` are left out.
        config: optimizers, learning rates, decay.
        extra: optimizers of parameters that this set must not update itself; stepped with it.
        id_counts: by vocabulary, how often an epoch reads each id, see :meth:`rectab.data.Split.occurrences`; needed
            by a mini-batch aware penalty only.
    """

    def __init__(
        self,
        model: CTRModel,
        config: TrainConfig,
        extra: Iterable[torch.optim.Optimizer] = (),
        id_counts: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.config = config
        self.extra = tuple(extra)
        self._model = model
        self._stores = list(model.table.row_stores())
        taken = {id(p) for optimizer in self.extra for group in optimizer.param_groups for p in group["params"]}

        def free(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
            return [p for p in parameters if p.requires_grad and id(p) not in taken]

        self._stores = [(name, store) for name, store in self._stores if id(store.anchor) not in taken]
        self.dense = free(model.dense_parameters()) + free(model.table.dense_parameters())
        self.by_part: dict[str, torch.optim.Optimizer] = {}
        if outside := free(model.dense_parameters()):
            self.by_part["dense"] = self._dense_optimizer(outside, config.weight_decay)
        # Thresholds, scales and decoders of a table feel no decay: nobody asked for it.
        if inside := free(model.table.dense_parameters()):
            self.by_part["table"] = self._dense_optimizer(inside, 0.0)
        shared_out = model.table.shards() is not None  # a process without a part has an optimizer of no rows
        if self._stores or shared_out:
            self.by_part["rows"] = self._optimizer_of_rows(id_counts)
        for optimizer in self.by_part.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def _dense_optimizer(self, parameters: list[nn.Parameter], decay: float) -> torch.optim.Optimizer:
        return _fused(self.config.optimizer, parameters, self.config.lr, decay)

    def _optimizer_of_rows(self, id_counts: Mapping[str, np.ndarray] | None) -> torch.optim.Optimizer:
        config = self.config
        name = config.row_optimizer or config.optimizer
        lr = config.row_lr or config.lr
        own_optimizer = self._model.table.own_row_optimizer(lr)
        if own_optimizer is not None:
            return own_optimizer
        gradients = {store.gradient for _, store in self._stores}
        if gradients <= {"row"}:
            row_optimizer: Any = _ROW_OPTIMIZERS[name]
            own: dict[str, Any] = {"square": config.row_square} if name == "adam" else {}
            made: torch.optim.Optimizer = row_optimizer(
                self._stores,
                lr=lr,
                rules=self._rules(),
                weight_decay=config.embedding_l2,
                decay=config.embedding_l2_mode,
                row_counts=None if id_counts is None else self._row_counts(id_counts),
                seed=config.seed,
                state_dtype=config.row_training.state_dtype,
                **own,
            )
            return made
        rows = [store.weight for _, store in self._stores]
        if gradients == {"dense"}:
            return _fused(name, rows, lr, config.embedding_l2)
        if gradients == {"sparse"} and not config.embedding_l2:
            sparse: Any = _SPARSE_OPTIMIZERS[name]
            made = sparse(rows, lr=lr)
            return made
        raise ValueError(f"cannot train row stores of gradients {sorted(gradients)} with L2 {config.embedding_l2}")

    def _row_counts(self, id_counts: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        table = self._model.table
        counts, shards = row_counts(table.with_all_rows(), id_counts), table.shards()
        return counts if shards is None else {shard.name: shard.of(counts[shard.store]) for shard in shards}

    def _rules(self) -> dict[str, RowRule]:
        """What the table names, of the stores that are trained here, and what the settings put around every rule."""
        named, around = self._model.table.rules(), self.config.rules_around()
        if around:
            return {name: Nested(around, named.get(name)) for name, _ in self._stores}
        return {name: named[name] for name, _ in self._stores if name in named}

    @property
    def rows(self) -> RowOptimizer | None:
        """The optimizer of the rows; None where one of torch's trains them."""
        rows = self.by_part.get("rows")
        return rows if isinstance(rows, RowOptimizer) else None

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        """Own optimizers, then the extra ones."""
        yield from self.by_part.values()
        yield from self.extra

    @property
    def lr(self) -> float:
        """Learning rate of the first own optimizer now."""
        return next((float(optimizer.param_groups[0]["lr"]) for optimizer in self.by_part.values()), self.config.lr)

    @property
    def kernel(self) -> str:
        """Implementation of the row kernels; ``torch`` where torch's own optimizer updates the rows."""
        return "torch" if self.rows is None or not self._stores else self.rows.kernel_of(self._stores[0][0])

    def scale_lr(self, scale: float) -> None:
        """Set every own learning rate to ``scale`` times where it started."""
        for optimizer in self.by_part.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale

    def zero_grad(self) -> None:
        for optimizer in self:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Clip if asked to, then update."""
        if self.config.clip_norm is not None:
            processes = current() if self._model.table.shards() is not None else None
            total = None if processes is None else processes.total
            clip_row_gradients(self._row_gradients(), self.config.clip_norm, self._other_gradients(), total=total)
        for optimizer in self:
            optimizer.step()

    def _row_gradients(self) -> list[Any]:
        return [(name, store) for name, store in self._stores if store.gradient == "row"]

    def _other_gradients(self) -> list[nn.Parameter]:
        return self.dense + [store.weight for _, store in self._stores if store.gradient != "row"]

    def table_bytes(self) -> int:
        """Bytes that the table takes while it trains: its tensors, their gradients, its optimizers' state, and the copy
        of the best weights.

        Row gradients follow the batch, not the table, and are not counted.
        """
        table = self._model.table
        ledger = table.ledger()
        best = best_bytes(table, ledger, self.config.best_weights)
        for part in ("table", "rows"):
            if part in self.by_part:
                ledger += table.ledger(self.by_part[part]).only("optimizer")
        trained = [p for p in table.parameters() if p.requires_grad]
        stores = {id(store.anchor) for _, store in self._stores if store.gradient != "dense"}
        return ledger.bytes + best + sum(p.numel() * p.element_size() for p in trained if id(p) not in stores)

    def catch_up(self) -> None:
        """Bring every row up to date, so that it may be read, saved or copied."""
        if self.rows is not None:
            self.rows.catch_up()

    def restart_rows(self, seed: int) -> None:
        """Rows start again: initial values of ``seed`` and fresh state; the dense part goes on.

        Raises:
            ValueError: an optimizer of torch's trains the rows.
        """
        table, rows = self._model.table, self.rows
        if rows is None:
            raise ValueError("restart_rows needs row gradients")
        options = replace(table.options, seed=seed, device="cpu")
        made = build_table(table.method, table.vocabularies, table.embedding_dim, table.config, options)
        fresh = dict(made.row_stores())
        for name, store in self._stores:
            every = torch.arange(store.num_rows, device=store.device)
            rows.reset(store, every, fresh[name].read(slice(None)).to(store.device))

    def release(self) -> None:
        """Bring rows up to date and let go of the stores: the optimizers are used no more."""
        self.catch_up()
        self.zero_grad()
        for _, store in self._stores:
            store.before_lookup = store.read_as = None

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self, states, strict=True):
            optimizer.load_state_dict(state)


def _fused(name: str, parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    """One of torch's optimizers, in one kernel; of Adagrad torch has none for GPUs."""
    optimizer: Any = _DENSE_OPTIMIZERS[name]
    fused = name != "adagrad" or all(p.device.type == "cpu" for p in parameters)
    made: torch.optim.Optimizer = optimizer(parameters, lr=lr, weight_decay=decay, fused=fused)
    return made

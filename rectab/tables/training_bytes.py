"""What a table takes while it is trained, counted on the meta device before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.optim import SGD, Adagrad, Adam, RowRule
from rectab.optim.row_state import as_held
from rectab.tables.base import EmbeddingTable
from rectab.tables.ledger import Ledger, LedgerEntry, measure_tensors, parameters_held

__all__ = ["RowTraining", "best_bytes", "training_ledger"]

# Optimizers are not made to be counted: torch imports its compiler with the first, which takes seconds.
_ROW_RULES: dict[str, type[RowRule]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
_STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_TORCH_STATE = {"adam": ("step", "exp_avg", "exp_avg_sq"), "adagrad": ("step", "sum"), "sgd": ()}
"""What torch's optimizers keep for a parameter, by name: ``step`` is one number, all else of its shape."""


@dataclass(frozen=True)
class RowTraining:
    """What decides how many bytes training takes beside the table.

    Attributes:
        optimizer: of rows and other parameters: ``adam``, ``adagrad`` or ``sgd``.
        state: how row optimizers hold their state: ``fp32``, ``bf16`` or ``int8``.
        square: second moments of Adam's rows: one an ``element``, one a ``row``, or ``factored``.
        best: how the best weights are kept: a ``copy``, or a ``log`` in a file, for which a byte a row is held.
    """

    optimizer: str = "adam"
    state: str = "fp32"
    square: str = "element"
    best: str = "copy"

    @property
    def state_dtype(self) -> torch.dtype:
        return _STATE_DTYPES[self.state]

    def rule(self) -> RowRule:
        """Of rows."""
        return Adam(square=self.square) if self.optimizer == "adam" else _ROW_RULES[self.optimizer]()  # type: ignore


def training_ledger(table: EmbeddingTable, training: RowTraining | None = None) -> Ledger:
    """Rows and indexes, gradients, the optimizer's state, the trainer's copy of the best weights, and temporaries.

    Row gradients and activations follow the batch, not the table, and are not counted; sparse gradients neither.

    Args:
        table: on the meta device.
        training: how; Adam with state in fp32 if None.
    """
    training = training or RowTraining()
    ledger = held = table.ledger()
    stores = dict(table.row_stores()) if table.options.gradient == "row" else {}
    row_ids = {id(store.anchor) for store in stores.values()}
    rest = {name: p for name, p in parameters_held(table) if p.requires_grad and id(p) not in row_ids}
    state = [*_row_state(stores, table.rules(), training), *_state(rest, training.optimizer)]
    ledger += measure_tensors(state, "optimizer")
    if table.options.gradient != "sparse":
        ledger += measure_tensors([(f"{name}.grad", _like(p)) for name, p in rest.items()], "gradient")
    ledger += Ledger((LedgerEntry("best weights", "best weights", "", (), best_bytes(table, held, training.best)),))
    between = table.bytes_between_stages() - ledger.bytes
    return ledger + Ledger((LedgerEntry("between stages", "temporary", "", (), between),) if between > 0 else ())


def best_bytes(table: EmbeddingTable, held: Ledger, best: str) -> int:
    """Of what is kept of the table's best weights; ``held`` is its ledger."""
    if best == "copy":
        return held.bytes
    stores = [store for _, store in table.row_stores()]
    rows = sum(t.numel() * t.element_size() for store in stores for t in store.tensors.values())
    return held.bytes - rows + sum(store.num_rows for store in stores)


def _row_state(
    stores: Mapping[str, RowStore], rules: Mapping[str, RowRule], training: RowTraining
) -> Iterator[tuple[str, Tensor]]:
    for name, store in stores.items():
        own = training.rule()
        rule = rules.get(name, own).around(own)
        state = as_held(rule.new_state(store.num_rows, store.row_dim, training.state_dtype, "meta", False))
        yield from ((f"{name}.{key}", tensor) for key, tensor in state.items())


def _state(parameters: Mapping[str, Tensor], optimizer: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters.items():
        for key in _TORCH_STATE[optimizer]:
            yield f"{name}.{key}", torch.empty((), device="meta") if key == "step" else _like(parameter)


def _like(parameter: Tensor) -> Tensor:
    """On the meta device; ``empty_like`` there makes torch import sympy."""
    return torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")

"""What a table takes while it is trained, counted on the meta device before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.optim import SGD, Adagrad, Adam, RowRule
from rectab.tables.base import EmbeddingTable
from rectab.tables.ledger import Ledger, LedgerEntry, measure_tensors, parameters_held

__all__ = ["training_ledger"]

# Optimizers are not made to be counted: torch imports its compiler with the first, which takes seconds.
_ROW_RULES: dict[str, type[RowRule]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
_TORCH_STATE = {"adam": ("step", "exp_avg", "exp_avg_sq"), "adagrad": ("step", "sum"), "sgd": ()}
"""What torch's optimizers keep for a parameter, by name: ``step`` is one number, all else of its shape."""


def training_ledger(table: EmbeddingTable, optimizer: str = "adam") -> Ledger:
    """Rows and indexes, gradients, the optimizer's state, the trainer's copy of the best weights, and temporaries.

    Row gradients and activations follow the batch, not the table, and are not counted; sparse gradients neither.

    Args:
        table: on the meta device.
        optimizer: of rows and other parameters: ``adam``, ``adagrad`` or ``sgd``.
    """
    ledger = held = table.ledger()
    stores = dict(table.row_stores()) if table.options.gradient == "row" else {}
    row_ids = {id(store.anchor) for store in stores.values()}
    rest = {name: p for name, p in parameters_held(table) if p.requires_grad and id(p) not in row_ids}
    ledger += measure_tensors([*_row_state(stores, table.rules(), optimizer), *_state(rest, optimizer)], "optimizer")
    if table.options.gradient != "sparse":
        ledger += measure_tensors([(f"{name}.grad", _like(p)) for name, p in rest.items()], "gradient")
    ledger += Ledger((LedgerEntry("best weights", "best weights", "", (), held.bytes),))
    between = table.bytes_between_stages() - ledger.bytes
    return ledger + Ledger((LedgerEntry("between stages", "temporary", "", (), between),) if between > 0 else ())


def _row_state(
    stores: Mapping[str, RowStore], rules: Mapping[str, RowRule], optimizer: str
) -> Iterator[tuple[str, Tensor]]:
    for name, store in stores.items():
        own = _ROW_RULES[optimizer]()
        rule = rules.get(name, own).around(own)
        state = rule.new_state(store.num_rows, store.row_dim, torch.float32, "meta", False)
        yield from ((f"{name}.{key}", tensor) for key, tensor in state.items())


def _state(parameters: Mapping[str, Tensor], optimizer: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters.items():
        for key in _TORCH_STATE[optimizer]:
            yield f"{name}.{key}", torch.empty((), device="meta") if key == "step" else _like(parameter)


def _like(parameter: Tensor) -> Tensor:
    """On the meta device; ``empty_like`` there makes torch import sympy."""
    return torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")

"""What a table takes while it is trained, counted on the meta device before anything is allocated."""

from __future__ import annotations

from typing import Any

import torch

from rectab.optim import RowAdagrad, RowAdam, RowSGD
from rectab.tables.base import EmbeddingTable
from rectab.tables.ledger import Ledger, LedgerEntry

__all__ = ["ROW_OPTIMIZERS", "TORCH_OPTIMIZERS", "training_ledger"]

ROW_OPTIMIZERS: dict[str, Any] = {"adam": RowAdam, "adagrad": RowAdagrad, "sgd": RowSGD}
TORCH_OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}


def training_ledger(table: EmbeddingTable, optimizer: str = "adam") -> Ledger:
    """Rows and indexes, gradients, the optimizer's state, the trainer's copy of the best weights, and temporaries.

    Row gradients and activations follow the batch, not the table, and are not counted; sparse gradients neither.

    Args:
        table: on the meta device; its gradients are set.
        optimizer: of rows and other parameters: ``adam``, ``adagrad`` or ``sgd``.
    """
    ledger = held = table.ledger()
    stores = list(table.row_stores()) if table.options.gradient == "row" else []
    if stores:
        ledger += table.ledger(ROW_OPTIMIZERS[optimizer](stores, lr=1e-3)).only("optimizer")
    row_ids = {id(store.anchor) for _, store in stores}
    rest = [p for p in table.parameters() if p.requires_grad and id(p) not in row_ids]
    if rest:
        for parameter in rest:
            parameter.grad = torch.empty_like(parameter)
        torch_optimizer = TORCH_OPTIMIZERS[optimizer](rest, lr=1e-3, foreach=False)
        torch_optimizer.step()
        counted = table.ledger(torch_optimizer)
        ledger += counted.only("optimizer")
        ledger += counted.only("gradient") if table.options.gradient != "sparse" else Ledger(())
    ledger += Ledger((LedgerEntry("best weights", "best weights", "", (), held.bytes),))
    between = table.bytes_between_stages() - ledger.bytes
    return ledger + Ledger((LedgerEntry("between stages", "temporary", "", (), between),) if between > 0 else ())

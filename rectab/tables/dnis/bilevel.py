"""The outer problem of DNIS's search: steps of the soft selection on validation batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.ops import RowStore

if TYPE_CHECKING:
    from rectab.batch import Batch
    from rectab.tables.dnis.table import DNISTable
    from rectab.tables.staged import StageRunner

__all__ = ["AlphaStep", "normalize_blocks", "second_order_gradient", "select_softly"]


def normalize_blocks(gradient: Tensor) -> Tensor:
    """[L, D] with mean absolute value 1 in every row; a row of zeros (a block absent from the batch) stays zero.

    Otherwise frequent blocks, whose gradients are larger, would be the only ones that learn.
    """
    return gradient / (gradient.abs().mean(1, keepdim=True) + 1e-8)


@torch.no_grad()
def select_softly(alpha: Tensor, gradient: Tensor, lr: float, l1: float) -> None:
    """One projected step of ``alpha`` [L, D], in place.

    L1 is a proximal step after the normalised one, on the blocks that the batch has. The authors add it to the loss: a
    block with little or no gradient of its own then normalises to the penalty alone, and its selection falls by ``lr``
    a step for no reason that validation knows of.
    """
    present = gradient.abs().sum(1, keepdim=True) > 0
    alpha -= lr * normalize_blocks(gradient)
    alpha -= lr * l1 * present
    alpha.clamp_(0.0, 1.0)


class AlphaStep:
    """Moves the soft selection after every step of the embeddings.

    Args:
        table: whose selection it is.
        trainer: gives validation batches (and training batches, for the second order) and their loss.
    """

    def __init__(self, table: DNISTable, trainer: StageRunner) -> None:
        self.table, self.trainer, self.config = table, trainer, table.config
        self._search = _forever(trainer, "search_batches")
        self._train = _forever(trainer, "train_batches")
        self._taken = 0

    def __call__(self, step: int) -> None:
        """Take step number ``step``, counted from 1."""
        self._skip(step - 1 - self._taken)
        self._taken = step
        model = self.trainer.model
        model.eval()  # no dropout, and no validation batch in the statistics of batch norm
        self.table.alpha.requires_grad_(True)
        batch = next(self._search)
        if self.config.second_order:
            gradient = second_order_gradient(self.table, self.trainer, next(self._train), batch, self.config.inner_lr)
        else:
            (gradient,) = torch.autograd.grad(self.trainer.loss(batch), [self.table.alpha])
        self.table.alpha.requires_grad_(False)
        model.train()
        select_softly(self.table.alpha, gradient, self.config.alpha_lr, self.config.l1)
        self.table.alpha_curve.add(step, self.table.alpha.mean(1))

    def _skip(self, steps: int) -> None:
        """Pass over the batches of steps taken before an interruption."""
        for _ in range(steps):
            next(self._search)
            if self.config.second_order:
                next(self._train)


def second_order_gradient(
    table: DNISTable, trainer: StageRunner, train_batch: Batch, search_batch: Batch, inner_lr: float
) -> Tensor:
    """Gradient [L, D] of the validation loss after a step of the embeddings that itself depends on the selection.

    ``L_val(W - inner_lr * dL_train/dW, alpha)``: its gradient by alpha is the direct one at the moved embeddings, minus
    ``inner_lr`` times a Hessian product that two more training gradients approximate (Liu et al., DARTS, ICLR 2019,
    equations 7 and 8). Embeddings are put back.
    """
    store = table.store
    _, rows, gradient = _gradients(table, trainer.loss(train_batch))
    with _moved(store, rows, -inner_lr * gradient):
        direct, rows, direction = _gradients(table, trainer.loss(search_batch))
    length = direction.norm()
    if inner_lr == 0.0 or not length > 0:
        return direct
    distance = 0.01 / length
    mixed = []
    for sign in (1, -1):
        with _moved(store, rows, sign * distance * direction):
            mixed.append(_gradients(table, trainer.loss(train_batch))[0])
    return direct - inner_lr * (mixed[0] - mixed[1]) / (2 * distance)


def _gradients(table: DNISTable, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a loss by alpha [L, D] and by the rows it read (int64 [u], float32 [u, D]); none is accumulated."""
    store, alpha = table.store, table.alpha
    if store.gradient != "row":
        by_alpha, by_weight = torch.autograd.grad(loss, [alpha, store.weight])
        dense = by_weight.to_dense()
        return by_alpha, torch.arange(store.num_rows, device=dense.device), dense.float()
    alpha.grad = None
    with store.gradients.apart() as gradients:
        loss.backward(inputs=[alpha, store.anchor])
        rows, sums = gradients.sum()
    accumulated = alpha.grad
    alpha.grad = None
    assert accumulated is not None
    order = rows.argsort()
    return accumulated, rows[order], sums[order]


@contextmanager
def _moved(store: RowStore, rows: Tensor, change: Tensor) -> Iterator[None]:
    """The store with ``change`` added to ``rows``; as it was afterwards, to the bit."""
    with torch.no_grad():
        before = {name: tensor[rows].clone() for name, tensor in store.tensors.items()}
        store.write(rows, store.read(rows) + change)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in store.tensors.items():
                tensor[rows] = before[name]


def _forever(trainer: StageRunner, source: str) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from getattr(trainer, source)(epoch)
        epoch += 1

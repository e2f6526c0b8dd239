"""How much a model's output moves when a looked-up vector does: what the error of an encoding costs, by vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ROWS", "evaluating", "table_sensitivity"]

ROWS = 20_000
"""Training rows that sensitivities are measured on."""


def table_sensitivity(model: nn.Module, table: nn.Module, num_vocabularies: int, batches: Iterable[Any]) -> np.ndarray:
    """float64 [V, D, D]: mean of g g', g the gradient of a row's output by a looked-up vector.

    Evaluation mode; the mean is over all lookups of a vocabulary, those of histories included. 0 where there are none.

    Args:
        model: ``model(batch)`` gives [B] outputs, one a row.
        table: the part of it that is called as ``table(ids, vocabulary)``, see
            :class:`rectab.tables.base.EmbeddingTable`.
        num_vocabularies: V.
        batches: of training rows.
    """
    total = lookups = None
    with evaluating(model):
        for batch in batches:
            with _watched(table) as seen, torch.enable_grad():
                outputs = model(batch)
            gradients = torch.autograd.grad(outputs.sum(), [vectors for _, vectors in seen], allow_unused=True)
            for (vocabulary, vectors), gradient in zip(seen, gradients, strict=True):
                columns = vocabulary.expand(vectors.shape[:-1]).reshape(-1)
                width = vectors.shape[-1]
                if total is None or lookups is None:
                    total = vectors.new_zeros(num_vocabularies, width, width, dtype=torch.float64)
                    lookups = vectors.new_zeros(num_vocabularies, dtype=torch.float64)
                lookups += torch.bincount(columns, minlength=num_vocabularies)
                if gradient is not None:
                    _add_products(total, columns, gradient.reshape(-1, width).double())
    if total is None or lookups is None:
        raise ValueError("no batch came, so no sensitivity can be measured")
    return (total / lookups.clamp(min=1)[:, None, None]).cpu().numpy()


def _add_products(total: Tensor, columns: Tensor, gradients: Tensor) -> None:
    """Add g g' of every row of ``gradients`` [m, D] to the matrix of its column."""
    order = columns.argsort(stable=True)
    for rows in order.split(torch.bincount(columns, minlength=len(total)).tolist()):
        if len(rows):
            total[int(columns[rows[0]])] += gradients[rows].T @ gradients[rows]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _watched(table: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects (vocabulary of every id, their vectors) of every call; the vectors are the leaves of the graph."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        vocabulary = kwargs["vocabulary"] if "vocabulary" in kwargs else args[1]
        leaf = output.detach().requires_grad_()
        seen.append((torch.as_tensor(vocabulary), leaf))
        return leaf

    handle = table.register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()

"""DLRM: dense features through a bottom perceptron, inner products of all pairs, a top perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectab.models.interaction import Interaction
from rectab.models.layers import MLP
from rectab.models.registry import InteractionInfo, register_interaction

__all__ = ["DLRM", "DLRMConfig"]


@dataclass(frozen=True)
class DLRMConfig:
    """Attributes:
    bottom: hidden widths of the bottom perceptron, before its last layer of width D.
    top: hidden widths of the top perceptron.
    activation: ``relu``, ``prelu``, ``sigmoid`` or ``dice``.
    batch_norm: normalise before every activation; the paper has none.
    dropout: share of hidden units dropped in training.
    """

    bottom: tuple[int, ...] = (512, 256)
    top: tuple[int, ...] = (512, 256)
    activation: str = "relu"
    batch_norm: bool = True
    dropout: float = 0.0


class DLRM(Interaction):
    """Naumov et al., arXiv 1906.00091.

    The bottom perceptron makes one vector of all dense features; the top one reads that vector and the inner products
    of all pairs of fields, that vector among them. Without dense features there is no bottom perceptron, and the top
    reads the inner products and the sum of the fields, so that first-order effects are not lost.
    """

    pairs: Tensor

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: DLRMConfig) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        options: dict[str, Any] = {
            "activation": config.activation,
            "batch_norm": config.batch_norm,
            "dropout": config.dropout,
        }
        self.bottom = MLP(num_dense, (*config.bottom, embedding_dim), **options) if num_dense else None
        count = num_fields + (num_dense > 0)
        rows, columns = torch.tril_indices(count, count, offset=-1)
        self.register_buffer("pairs", rows * count + columns, persistent=False)
        self.top = MLP(embedding_dim + len(self.pairs), config.top, 1, **options)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        if self.bottom is None:
            summary = fields.sum(1)
        else:
            summary = self.bottom(dense).to(fields.dtype)
            fields = torch.cat([summary.unsqueeze(1), fields], dim=1)
        products = torch.bmm(fields, fields.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return self.top(torch.cat([summary.to(products.dtype), products], dim=1)).squeeze(1)


register_interaction(
    InteractionInfo("dlrm", "inner products between two perceptrons", "Naumov et al., 2019", DLRMConfig, DLRM),
)

"""Logistic regression and the factorization machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rectab.models.interaction import Interaction
from rectab.models.layers import DenseFields, FirstOrder
from rectab.models.registry import InteractionInfo, register_interaction

__all__ = ["FM", "LR", "FMConfig", "LRConfig", "sum_of_pairwise_products"]


@dataclass(frozen=True)
class LRConfig:
    """Logistic regression has nothing to choose."""


class LR(Interaction):
    """Logistic regression over readouts of the embeddings, see :class:`rectab.models.layers.FirstOrder`."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.first_order = FirstOrder(num_fields, embedding_dim, num_dense)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        return self.first_order(fields, dense)


def sum_of_pairwise_products(fields: Tensor) -> Tensor:
    """float [B, F, D] -> [B]: sum over pairs i < j of <e_i, e_j>, in one pass (Rendle, ICDM 2010, section III-B)."""
    total = fields.sum(1)
    return 0.5 * (total.square().sum(1) - fields.square().sum((1, 2)))


@dataclass(frozen=True)
class FMConfig:
    """The factorization machine has nothing to choose."""


class FM(Interaction):
    """First order and the inner products of all pairs of fields; dense features take part as fields ``x * v``."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.first_order = FirstOrder(num_fields, embedding_dim, num_dense)
        self.dense_fields = DenseFields(num_dense, embedding_dim)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        return self.first_order(fields, dense) + sum_of_pairwise_products(self.dense_fields(fields, dense))


register_interaction(
    InteractionInfo("lr", "logistic regression over readouts of the embeddings", "", LRConfig, LR),
)
register_interaction(
    InteractionInfo("fm", "first order and all pairwise inner products", "Rendle, ICDM 2010", FMConfig, FM),
)

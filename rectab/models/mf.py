"""Matrix factorisation: the inner product of a user's and an item's embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rectab.models.interaction import Interaction
from rectab.models.registry import InteractionInfo, register_interaction

__all__ = ["MF", "MFConfig"]


@dataclass(frozen=True)
class MFConfig:
    """Matrix factorisation has nothing to choose."""


class MF(Interaction):
    """``<e_user, e_item>``, without biases: what an id has is in its embedding. Only of two fields and nothing else."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        if num_fields != 2 or num_dense:
            raise ValueError(
                f"mf: multiplies two fields, a user's and an item's, and the data have {num_fields} fields and "
                f"{num_dense} dense features; leave the others out (--without NAME), or take fm"
            )

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        return (fields[:, 0] * fields[:, 1]).sum(1)

    def scores_of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        return first @ second.T


register_interaction(
    InteractionInfo("mf", "inner product of a user and an item", "Koren et al., IEEE Computer 2009", MFConfig, MF),
)

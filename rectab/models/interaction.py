"""What every interaction is: the fields of a row in, its logit out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Interaction"]


class Interaction(nn.Module):
    """Base of all interactions.

    Args:
        num_fields: F, categorical features and interest vectors.
        embedding_dim: D.
        num_dense: N, float features, may be 0.
        config: the interaction's own config.
    """

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.embedding_dim = embedding_dim
        self.num_dense = num_dense
        self.config = config

    @property
    def num_inputs(self) -> int:
        """Width of all fields and dense features side by side: F * D + N."""
        return self.num_fields * self.embedding_dim + self.num_dense

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        """float [B, F, D], float [B, N] -> logits float [B]. To be implemented."""
        raise NotImplementedError

    def scores_of_pairs(self, first: Tensor, second: Tensor) -> Tensor | None:
        """float [U, D] of one field, float [I, D] of the other -> logits float [U, I] of all pairs; None where every
        row has to be scored by itself.
        """
        return None

    def selection(self, fields: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """(gates, weights) of H neurons over the fields and dense features, both float [B, H, F + N]; only of an
        interaction whose neurons select fields.
        """
        raise NotImplementedError

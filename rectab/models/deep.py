"""The multi-layer perceptron and its companions with a shallow part: Wide & Deep and DeepFM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectab.models.interaction import Interaction
from rectab.models.layers import MLP, FirstOrder
from rectab.models.registry import InteractionInfo, register_interaction
from rectab.models.shallow import FM

__all__ = ["DeepConfig", "DeepFM", "DeepOnly", "WideDeep"]


@dataclass(frozen=True)
class DeepConfig:
    """Attributes:
    hidden: widths of the hidden layers.
    activation: ``relu``, ``prelu``, ``sigmoid`` or ``dice``.
    batch_norm: normalise before every activation.
    dropout: share of hidden units dropped in training.
    """

    hidden: tuple[int, ...] = (400, 400, 400)
    activation: str = "relu"
    batch_norm: bool = True
    dropout: float = 0.0

    def build(self, num_inputs: int, num_outputs: int | None = 1) -> MLP:
        """The perceptron of this config."""
        return MLP(
            num_inputs,
            self.hidden,
            num_outputs,
            activation=self.activation,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
        )


class DeepOnly(Interaction):
    """A perceptron over all fields and dense features side by side."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.mlp = config.build(self.num_inputs)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        flat = fields.flatten(1)
        inputs = torch.cat([flat, dense], dim=1) if self.num_dense else flat
        return self.mlp(inputs).squeeze(1)


class WideDeep(DeepOnly):
    """The perceptron plus the first-order part (Cheng et al., DLRS 2016), without hand-made crosses."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.wide = FirstOrder(num_fields, embedding_dim, num_dense)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        return super().forward(fields, dense) + self.wide(fields, dense)


class DeepFM(DeepOnly):
    """The perceptron plus a factorization machine over the same embeddings (Guo et al., IJCAI 2017)."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.fm = FM(num_fields, embedding_dim, num_dense, None)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        return super().forward(fields, dense) + self.fm(fields, dense)


register_interaction(
    InteractionInfo("mlp", "perceptron over all fields", "", DeepConfig, DeepOnly),
)
register_interaction(
    InteractionInfo("deepfm", "perceptron plus factorization machine", "Guo et al., IJCAI 2017", DeepConfig, DeepFM),
)
register_interaction(
    InteractionInfo("wide_deep", "perceptron plus first order", "Cheng et al., DLRS 2016", DeepConfig, WideDeep),
)

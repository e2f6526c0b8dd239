"""Parts that several models share: the multi-layer perceptron, first-order readouts, dense features as fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rectab.models.activations import make_activation
from rectab.models.dropout import Dropout
from rectab.models.normalization import BatchNorm

__all__ = ["MLP", "DenseFields", "FirstOrder", "PositionLinear", "ScoreLinear", "init_linear", "linear_of_positions"]


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Xavier uniform weights (Glorot and Bengio, AISTATS 2010), zero bias."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class ScoreLinear(nn.Linear):
    """A thin last layer, computed in fp32 also under autocast: bf16 would round scores to three digits."""

    def forward(self, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return nn.functional.linear(values.to(self.weight.dtype), self.weight, self.bias)


def linear_of_positions(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear`` over the P positions of jagged histories: a number that every batch changes.

    For bf16 on the CPU, oneDNN compiles a kernel and packs the weights for every shape it meets, and keeps them: about
    100 MB an epoch of small batches. So P is rounded up, by an eighth at most, to one of a few sizes.
    """
    if values.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(values, weight, bias)
    positions = values.shape[0]
    step = max(256, 1 << max(positions.bit_length() - 4, 0))
    values = nn.functional.pad(values, (0, 0, 0, -positions % step))
    return nn.functional.linear(values, weight, bias)[:positions]


class PositionLinear(nn.Linear):
    """A linear layer over the positions of jagged histories, see :func:`linear_of_positions`."""

    def forward(self, values: Tensor) -> Tensor:
        return linear_of_positions(values, self.weight, self.bias)


class MLP(nn.Sequential):
    """Linear, batch norm, activation, dropout for every hidden layer, and a linear output in fp32 if one is asked for.

    Args:
        num_inputs: width of the input.
        hidden: widths of the hidden layers; may be empty.
        num_outputs: width of the linear output; None ends with the last hidden layer.
        activation: see :mod:`rectab.models.activations`.
        batch_norm: normalise before every activation.
        dropout: share of the hidden units dropped in training.
        linear: the class of the hidden layers.
    """

    def __init__(
        self,
        num_inputs: int,
        hidden: Sequence[int],
        num_outputs: int | None = None,
        *,
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden widths must be at least 1, got {tuple(hidden)}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        layers: list[nn.Module] = []
        width = num_inputs
        for units in hidden:
            # Batch norm subtracts the mean, and with it any bias.
            layers.append(init_linear(linear(width, units, bias=not batch_norm)))
            if batch_norm:
                layers.append(BatchNorm(units))
            layers.append(make_activation(activation, units))
            if dropout:
                layers.append(Dropout(dropout))
            width = units
        if num_outputs is not None:
            layers.append(init_linear(ScoreLinear(width, num_outputs)))
        super().__init__(*layers)
        self.num_outputs = width if num_outputs is None else num_outputs


class FirstOrder(nn.Module):
    """The linear part: bias, a readout of every field's embedding, a weight for every dense feature.

    The usual first-order term keeps one more scalar for every id, which no budget counts. Here an id's only memory is
    its embedding: its scalar is a readout ``<w_field, e_id>``. With ``embedding_dim=1`` that is plain logistic
    regression (up to the sign and scale of ``w_field``). Readouts start as random unit vectors, different for every
    field, so that ids of different fields that share a row of a compressed table are read along different directions.

    Args:
        num_fields: F.
        embedding_dim: D.
        num_dense: N, may be 0.
    """

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int) -> None:
        super().__init__()
        self.readout = nn.Parameter(nn.functional.normalize(torch.randn(num_fields, embedding_dim), dim=1))
        self.dense = nn.Parameter(torch.zeros(num_dense))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        """float [B, F, D], float [B, N] -> float [B]."""
        logits = fields.flatten(1) @ self.readout.flatten() + self.bias
        return logits + dense @ self.dense if self.dense.numel() else logits


class DenseFields(nn.Module):
    """Dense features as further fields of the pairwise parts: ``x_n * v_n``, one learned vector for each feature.

    Args:
        num_dense: N, may be 0.
        embedding_dim: D.
    """

    def __init__(self, num_dense: int, embedding_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(num_dense, embedding_dim) * 0.01)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        """float [B, F, D], float [B, N] -> float [B, F + N, D]."""
        if not self.vectors.shape[0]:
            return fields
        return torch.cat([fields, dense.unsqueeze(-1) * self.vectors], dim=1)

"""ARM-Net: crosses of fields of any order, chosen anew for every row (Cai et al., SIGMOD 2021, arXiv 2107.01830)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rectab.models.deep import DeepConfig
from rectab.models.entmax import check_alpha, entmax
from rectab.models.interaction import Interaction
from rectab.models.layers import DenseFields
from rectab.models.normalization import BatchNorm
from rectab.models.registry import InteractionInfo, register_interaction

__all__ = ["ARMConfig", "ARMNet", "ARMNetPlus", "ARMPlusConfig", "ExponentialNeurons"]

_GAIN = math.sqrt(2.0)


@dataclass(frozen=True)
class ARMConfig(DeepConfig):
    """Attributes, beside those of the perceptron:
    heads: attention heads; each has a projection of its own.
    neurons: exponential neurons of a head.
    alpha: of :func:`rectab.models.entmax.entmax`: 1 uses every field, towards 2 neurons select fewer.
    key_dim: width of the queries; None: as wide as the embeddings.
    """

    hidden: tuple[int, ...] = (256, 256)
    heads: int = 4
    neurons: int = 32
    alpha: float = 1.7
    key_dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "key_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"armnet: {name} must be at least 1, got {value}")
        check_alpha(self.alpha)


@dataclass(frozen=True)
class ARMPlusConfig(ARMConfig):
    """Attributes, beside those of ARM-Net:
    deep_hidden: hidden widths of the perceptron beside it.
    embeddings: ``halves``: ARM-Net reads the first half of every embedding and the perceptron the other, as in the
        paper, where each has embeddings of its own; ``shared``: both read all of it, as DeepFM's parts do.
    """

    deep_hidden: tuple[int, ...] = (256, 256)
    embeddings: str = "halves"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embeddings not in ("halves", "shared"):
            raise ValueError(f"armnet_plus: embeddings must be 'halves' or 'shared', got {self.embeddings!r}")


class ExponentialNeurons(nn.Module):
    """``y_i = exp(sum_j w_ij e_j)``: in exponential space the sum is a product of powers of the fields.

    The powers are ``w_ij = a_ij u_ij``: gates ``a_i = entmax(z_i)`` over the fields of the row, with
    ``z_ij = <W e_j, q_i> / sqrt(key_dim)``, select fields, and the value vector ``u_i`` of the neuron weighs them.

    Args:
        num_fields: F.
        embedding_dim: D.
        config: heads K, neurons o of each, alpha, key_dim.
    """

    def __init__(self, num_fields: int, embedding_dim: int, config: ARMConfig) -> None:
        super().__init__()
        self.alpha = config.alpha
        key_dim = config.key_dim or embedding_dim
        self.scale = key_dim**-0.5
        self.projection = _xavier(config.heads, embedding_dim, key_dim)
        self.query = _xavier(config.heads, config.neurons, key_dim)
        self.values = _xavier(config.heads, config.neurons, num_fields)

    def gates(self, fields: Tensor) -> Tensor:
        """float [B, F, D] -> float [B, K * o, F]: how much of each field every neuron takes; each sums to 1."""
        read = torch.einsum("kde,koe->kod", self.projection, self.query).flatten(0, 1) * self.scale
        return entmax(torch.matmul(read, fields.transpose(1, 2)), self.alpha)

    def weights(self, fields: Tensor) -> Tensor:
        """float [B, F, D] -> float [B, K * o, F]: the power of each field in every neuron; 0 where not selected."""
        return self.gates(fields) * self.values.flatten(0, 1)

    def forward(self, fields: Tensor) -> Tensor:
        """float [B, F, D] -> float [B, K * o, D], above 0."""
        return torch.bmm(self.weights(fields), fields).exp()


class ARMNet(Interaction):
    """Exponential neurons, batch norm a neuron, a perceptron over all of them. Dense features are fields ``x * v``.

    The neurons are computed in fp32 also under autocast: an exponent rounded to bf16 is off by as much as it is large.
    """

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        self.dense_fields = DenseFields(num_dense, embedding_dim)
        self.neurons = ExponentialNeurons(num_fields + num_dense, embedding_dim, config)
        count = config.heads * config.neurons
        self.norm = BatchNorm(count)
        self.mlp = config.build(count * embedding_dim)

    def selection(self, fields: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """(gates, weights) of every neuron, both float [B, K * o, F + N]; see :class:`ExponentialNeurons`."""
        every = self.dense_fields(fields, dense)
        return self.neurons.gates(every), self.neurons.weights(every)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        with torch.autocast(fields.device.type, enabled=False):
            crosses = self.norm(self.neurons(self.dense_fields(fields.float(), dense)))
        return self.mlp(crosses.flatten(1)).squeeze(1)


class ARMNetPlus(Interaction):
    """ARM-Net+: ``w1 * ARM-Net + w2 * perceptron + b``, with w1 = w2 = 1/2 and b = 0 at the start."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: ARMPlusConfig) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        halves = config.embeddings == "halves"
        if halves and embedding_dim % 2:
            raise ValueError(
                f"armnet_plus: embeddings 'halves' needs an even embedding_dim, got {embedding_dim}; "
                "take another, or embeddings 'shared'"
            )
        width = embedding_dim // 2 if halves else embedding_dim
        self.arm = ARMNet(num_fields, width, num_dense, config)
        deep = DeepConfig(config.deep_hidden, config.activation, config.batch_norm, config.dropout)
        self.deep = deep.build(num_fields * width + num_dense)
        self.mixture = nn.Parameter(torch.tensor([0.5, 0.5, 0.0]))

    def selection(self, fields: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Of :class:`ARMNet`."""
        return self.arm.selection(fields[..., : self.arm.embedding_dim], dense)

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        width = self.arm.embedding_dim
        crossed = self.arm(fields[..., :width], dense)
        flat = fields[..., -width:].flatten(1)
        deep = self.deep(torch.cat([flat, dense], dim=1) if self.num_dense else flat).squeeze(1)
        return self.mixture[0] * crossed + self.mixture[1] * deep + self.mixture[2]


def _xavier(heads: int, rows: int, columns: int) -> nn.Parameter:
    """[heads, rows, columns]: every head's matrix by itself, with the gain of the authors."""
    made = nn.Parameter(torch.empty(heads, rows, columns))
    for matrix in made.data:
        nn.init.xavier_uniform_(matrix, gain=_GAIN)
    return made


register_interaction(
    InteractionInfo("armnet", "exponential neurons over selected fields", "Cai et al., SIGMOD 2021", ARMConfig, ARMNet),
)
register_interaction(
    InteractionInfo("armnet_plus", "armnet beside a perceptron", "Cai et al., SIGMOD 2021", ARMPlusConfig, ARMNetPlus),
)

"""DCN-V2: cross layers of full or low rank beside or below a perceptron (Wang et al., WWW 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rectab.models.deep import DeepConfig
from rectab.models.interaction import Interaction
from rectab.models.layers import ScoreLinear, init_linear
from rectab.models.registry import InteractionInfo, register_interaction

__all__ = ["CrossLayer", "DCNv2", "DCNv2Config"]

MAX_LAYERS = 1000


@dataclass(frozen=True)
class DCNv2Config(DeepConfig):
    """Attributes, beside those of the perceptron:
    cross_layers: number of cross layers.
    low_rank: rank of the cross matrices; None for full rank.
    structure: ``parallel`` (cross beside the perceptron) or ``stacked`` (cross below it).
    """

    cross_layers: int = 3
    low_rank: int | None = None
    structure: str = "parallel"

    def __post_init__(self) -> None:
        if not 1 <= self.cross_layers <= MAX_LAYERS:
            raise ValueError(f"dcnv2: cross_layers must be in 1..{MAX_LAYERS}, got {self.cross_layers}")
        if self.structure not in ("parallel", "stacked"):
            raise ValueError(f"dcnv2: structure must be 'parallel' or 'stacked', got {self.structure!r}")
        if self.low_rank is not None and self.low_rank < 1:
            raise ValueError(f"dcnv2: low_rank must be at least 1 or None, got {self.low_rank}")


class CrossLayer(nn.Module):
    """``x0 * (W x + b) + x``, W of full rank or the product of two thin matrices.

    Args:
        width: length of x.
        low_rank: rank of W; None for full rank.
    """

    def __init__(self, width: int, low_rank: int | None) -> None:
        super().__init__()
        self.project = nn.Identity() if low_rank is None else init_linear(nn.Linear(width, low_rank, bias=False))
        self.linear = init_linear(nn.Linear(low_rank or width, width))

    def forward(self, first: Tensor, current: Tensor) -> Tensor:
        """float [B, W] x0 and float [B, W] x -> float [B, W]."""
        return torch.addcmul(current, first, self.linear(self.project(current)).to(current.dtype))


class DCNv2(Interaction):
    """Cross network and perceptron over all fields and dense features side by side."""

    def __init__(self, num_fields: int, embedding_dim: int, num_dense: int, config: Any) -> None:
        super().__init__(num_fields, embedding_dim, num_dense, config)
        width = self.num_inputs
        self.cross = nn.ModuleList(CrossLayer(width, config.low_rank) for _ in range(config.cross_layers))
        self.mlp = config.build(width, None)
        stacked = config.structure == "stacked"
        self.output = init_linear(ScoreLinear(self.mlp.num_outputs + (0 if stacked else width), 1))

    def forward(self, fields: Tensor, dense: Tensor) -> Tensor:
        flat = fields.flatten(1)
        first = torch.cat([flat, dense], dim=1) if self.num_dense else flat
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        if self.config.structure == "stacked":
            return self.output(self.mlp(crossed)).squeeze(1)
        deep = self.mlp(first)
        return self.output(torch.cat([crossed, deep.to(crossed.dtype)], dim=1)).squeeze(1)


register_interaction(
    InteractionInfo("dcnv2", "cross layers and a perceptron", "Wang et al., WWW 2021", DCNv2Config, DCNv2),
)

"""History towers: the events of one behaviour in, interest vectors out. They know nothing of padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rectab.models.jagged import Segments
from rectab.models.registry import TowerInfo, register_tower
from rectab.ops import segment_sum
from rectab.schema import Feature

__all__ = ["HistoryTower", "MeanConfig", "MeanTower", "NoneConfig", "check_max_history"]


class HistoryTower(nn.Module):
    """Base of all towers: one for each behaviour.

    Args:
        features: the K sequence features of the behaviour.
        embedding_dim: D.
        config: the tower's own config.
    """

    def __init__(self, features: Sequence[Feature], embedding_dim: int, config: Any) -> None:
        super().__init__()
        self.features = tuple(features)
        self.embedding_dim = embedding_dim
        self.config = config

    def forward(self, events: Tensor, segments: Segments, targets: Tensor) -> Tensor:
        """To be implemented.

        Args:
            events: float [P, K, D], the vectors of all events of all rows.
            segments: which of the P positions belong to which of the B rows.
            targets: float [B, T, D], the vectors of the target of every sequence that has one, in sequence order.

        Returns:
            float [B, K, D]: one interest vector for each sequence; zero where the history is empty.
        """
        raise NotImplementedError

    def weights(self, events: Tensor, segments: Segments, targets: Tensor) -> Tensor:
        """float [P]: the weight of every event in its row's interest; the arguments are :meth:`forward`'s.

        Raises:
            ValueError: this tower weighs no events.
        """
        raise ValueError(f"{type(self).__name__} has no attention weights; use history 'din'")


def check_max_history(max_history: int | None) -> None:
    """Raises ValueError unless it is None or at least 1."""
    if max_history is not None and max_history < 1:
        raise ValueError(f"max_history must be at least 1 or None, got {max_history}; to ignore histories use 'none'")


@dataclass(frozen=True)
class NoneConfig:
    """Histories are ignored: nothing to choose."""


@dataclass(frozen=True)
class MeanConfig:
    """Attributes:
    max_history: number of most recent events read; None reads all.
    """

    max_history: int | None = None

    def __post_init__(self) -> None:
        check_max_history(self.max_history)


class MeanTower(HistoryTower):
    """The mean of the events' vectors: DIN's base model."""

    def forward(self, events: Tensor, segments: Segments, targets: Tensor) -> Tensor:
        lengths = (segments.offsets[1:] - segments.offsets[:-1]).clamp(min=1)
        total = segment_sum(events.flatten(1), segments.offsets)
        return (total / lengths.unsqueeze(1).to(total.dtype)).unflatten(1, (len(self.features), self.embedding_dim))


register_tower(TowerInfo("none", "histories are ignored", "", NoneConfig, None))
register_tower(TowerInfo("mean", "the mean of the events' vectors", "", MeanConfig, MeanTower))

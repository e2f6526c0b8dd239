"""The Deep Interest Network's attention over a history (Zhou et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectab.models.activations import make_activation
from rectab.models.history import HistoryTower, check_max_history
from rectab.models.jagged import Segments, segment_softmax
from rectab.models.layers import MLP, PositionLinear, init_linear, linear_of_positions
from rectab.models.registry import TowerInfo, register_tower
from rectab.ops import segment_sum, spread_bags
from rectab.schema import Feature

__all__ = ["DINConfig", "DINTower", "LocalActivationUnit"]


@dataclass(frozen=True)
class DINConfig:
    """Attributes:
    hidden: widths of the activation unit's hidden layers.
    activation: ``relu``, ``prelu``, ``sigmoid`` or ``dice``.
    weights: ``raw`` (the paper: their sum is the intensity of the interest) or ``softmax`` (the authors' demo: scores
        divided by the square root of the key's width, then softmax over the history).
    max_history: number of most recent events read; None reads all.
    """

    hidden: tuple[int, ...] = (80, 40)
    activation: str = "dice"
    weights: str = "raw"
    max_history: int | None = None

    def __post_init__(self) -> None:
        check_max_history(self.max_history)
        if self.weights not in ("raw", "softmax"):
            raise ValueError(f"din: weights must be 'raw' or 'softmax', got {self.weights!r}")
        if not self.hidden:
            raise ValueError("din: the activation unit needs at least one hidden layer")


class LocalActivationUnit(nn.Module):
    """Scores every event of a history against the row's target: a perceptron over ``[q, k, q - k, q * k]``.

    The first layer is linear in its four parts, ``W [q, k, q - k, q * k] = (Wq + Wd) q + (Wk - Wd) k + Wp (q * k)``, so
    that the part of q is computed once a row instead of once a position, the other two need half the multiplications,
    and the four parts are never laid side by side.

    Args:
        width: C, width of query and key.
        extra_width: E, width of event features that have no target to be compared with (time gaps, positions); they
            enter the first layer as they are. May be 0.
        hidden: widths of the hidden layers.
        activation: see :mod:`rectab.models.activations`.
    """

    def __init__(self, width: int, extra_width: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.width = width
        self.extra_width = extra_width
        self.first = init_linear(nn.Linear(4 * width + extra_width, hidden[0]))
        self.activation = make_activation(activation, hidden[0])
        self.rest = MLP(hidden[0], hidden[1:], 1, activation=activation, linear=PositionLinear)

    def forward(self, query: Tensor, keys: Tensor, extra: Tensor | None, segments: Segments) -> Tensor:
        """float [B, C], [P, C], [P, E] or None -> scores float [P]."""
        of_query, of_key, of_difference, of_product, of_extra = self.first.weight.split(
            [self.width] * 4 + [self.extra_width], dim=1
        )
        of_row = nn.functional.linear(query, of_query + of_difference, self.first.bias)
        parts = [keys, spread_bags(query, segments.offsets, keys.shape[0]) * keys]
        weights = [of_key - of_difference, of_product]
        if extra is not None:
            parts.append(extra)
            weights.append(of_extra)
        of_position = linear_of_positions(torch.cat(parts, dim=1), torch.cat(weights, dim=1), None)
        hidden = self.activation(of_position + spread_bags(of_row, segments.offsets, keys.shape[0]))
        return self.rest(hidden).squeeze(1)


class DINTower(HistoryTower):
    """Interest vectors as sums of the events weighted by their relevance to the target.

    The sequences of the behaviour (item, category, ...) are attended together: the concatenated vectors of an event
    against the concatenated vectors of the targets give one weight. Sequences without a target (positions, time gaps)
    inform the score beside them, and are summed by the same weights.

    Raises:
        ValueError: no sequence of the behaviour has a target.
    """

    def __init__(self, features: Sequence[Feature], embedding_dim: int, config: DINConfig) -> None:
        super().__init__(features, embedding_dim, config)
        self.with_target = [index for index, feature in enumerate(features) if feature.target is not None]
        self.without_target = [index for index, feature in enumerate(features) if feature.target is None]
        if not self.with_target:
            names = [feature.name for feature in features]
            raise ValueError(f"din: none of the sequences {names} has a target to be compared with; use history 'mean'")
        self.unit = LocalActivationUnit(
            len(self.with_target) * embedding_dim,
            len(self.without_target) * embedding_dim,
            config.hidden,
            config.activation,
        )

    def weights(self, events: Tensor, segments: Segments, targets: Tensor) -> Tensor:
        """float [P]: the weight of every event, see :meth:`HistoryTower.forward` for the arguments."""
        keys, extra = events, None
        if self.without_target:
            keys, extra = events[:, self.with_target], events[:, self.without_target].flatten(1)
        scores = self.unit(targets.flatten(1), keys.flatten(1), extra, segments)
        if self.config.weights == "raw":
            return scores
        return segment_softmax(scores / self.unit.width**0.5, segments)

    def forward(self, events: Tensor, segments: Segments, targets: Tensor) -> Tensor:
        weights = self.weights(events, segments, targets)
        return segment_sum(events.flatten(1), segments.offsets, weights).unflatten(1, events.shape[1:])


register_tower(TowerInfo("din", "attention against the target", "Zhou et al., KDD 2018", DINConfig, DINTower))

"""Which fields the neurons of an interaction select for a row (ARM-Net, section 3.3: interpretability)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rectab.batch import Batch
from rectab.models import CTRModel
from rectab.models.interaction import Interaction

__all__ = ["Neuron", "SelectedField", "field_names", "has_selection", "selected_fields"]


@dataclass(frozen=True)
class SelectedField:
    """One field that a neuron takes.

    Attributes:
        field: a categorical feature, the interest in a sequence feature, or a dense feature.
        gate: share of the neuron's attention, above 0; the gates of a neuron sum to 1.
        weight: the power that the field has in the neuron's product.
    """

    field: str
    gate: float
    weight: float


@dataclass(frozen=True)
class Neuron:
    """One neuron and the fields it selects for the row, the largest gate first.

    Attributes:
        neuron: its number, from 0.
        fields: those with a gate above 0.
    """

    neuron: int
    fields: tuple[SelectedField, ...]


def has_selection(model: CTRModel) -> bool:
    """Whether the model's interaction selects fields."""
    return type(model.interaction).selection is not Interaction.selection


def field_names(model: CTRModel) -> list[str]:
    """Names of the fields that the interaction reads, in its order: F categorical, S interests, N dense."""
    interests = [feature.name for features in model.schema.behaviours.values() for feature in features]
    names = [feature.name for feature in model.schema.categorical]
    return [*names, *(interests if len(model.behaviours) else []), *model.schema.dense]


@torch.no_grad()
def selected_fields(model: CTRModel, batch: Batch) -> tuple[Neuron, ...]:
    """What every neuron selects for the first row of ``batch``; the model is in evaluation mode."""
    gates, weights = model.interaction.selection(model.fields(batch), batch.dense)
    names = field_names(model)
    pairs = zip(gates[0].tolist(), weights[0].tolist(), strict=True)
    return tuple(Neuron(number, _fields(names, *pair)) for number, pair in enumerate(pairs))


def _fields(names: Sequence[str], gates: Sequence[float], weights: Sequence[float]) -> tuple[SelectedField, ...]:
    every = (SelectedField(*field) for field in zip(names, gates, weights, strict=True))
    return tuple(sorted((field for field in every if field.gate > 0), key=lambda field: -field.gate))

"""What a model looks at for a row: the weight of every event of its histories (DIN, Figure 5), and the fields that
neurons select (ARM-Net)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rectab.batch import Batch
from rectab.data.dataset import PreparedDataset
from rectab.data.split import Split
from rectab.data.values import RawValues
from rectab.models import CTRModel
from rectab.models.history import HistoryTower
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.device import resolve_device
from rectab.training.selected import Neuron, has_selection, selected_fields

__all__ = [
    "BehaviourAttention",
    "Event",
    "Explanation",
    "explain_checkpoint",
    "explain_row",
    "has_attention",
    "rows_to_explain",
]

SplitName = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Event:
    """One event of a history.

    Attributes:
        weight: of the event in the row's interest.
        values: by sequence feature, the raw value.
    """

    weight: float
    values: dict[str, str]


@dataclass(frozen=True)
class BehaviourAttention:
    """The attention over the events of one behaviour.

    Attributes:
        behaviour: its name.
        targets: by sequence feature that has one, the raw value it is compared with.
        events: oldest first, those the tower reads.
        total: sum of their weights: the intensity of the interest for raw weights, 1 for a softmax (0 if empty).
    """

    behaviour: str
    targets: dict[str, str]
    events: tuple[Event, ...]
    total: float


@dataclass(frozen=True)
class Explanation:
    """What the model looks at for one row.

    Attributes:
        dataset, split, row: which row; ``row`` counts from 0 within the split.
        label: of the row.
        probability: predicted.
        weights: ``raw`` or ``softmax``, see :class:`rectab.models.din.DINConfig`.
        features: raw values of the row's categorical features.
        behaviours: in schema order; empty without attention.
        neurons: of an interaction that selects fields; empty for any other.
    """

    dataset: str
    split: str
    row: int
    label: float
    probability: float
    weights: str
    features: dict[str, str]
    behaviours: tuple[BehaviourAttention, ...]
    neurons: tuple[Neuron, ...] = ()

    def to_json(self, max_events: int | None = None) -> dict[str, Any]:
        """Plain data; of each behaviour only the ``max_events`` most recent events (``total`` is of all)."""
        plain = asdict(self)
        for behaviour in plain["behaviours"]:
            events = list(behaviour["events"])
            behaviour["left_out"] = 0 if max_events is None else max(len(events) - max_events, 0)
            behaviour["events"] = events[behaviour["left_out"] :]
        plain["behaviours"] = list(plain["behaviours"])
        neurons = plain.pop("neurons")
        return {**plain, "neurons": list(neurons)} if neurons else plain


def has_attention(model: CTRModel) -> bool:
    """Whether the model's towers weigh events."""
    towers = [module for module in model.modules() if isinstance(module, HistoryTower)]
    return bool(towers) and all(type(tower).weights is not HistoryTower.weights for tower in towers)


@torch.no_grad()
def explain_row(
    model: CTRModel, dataset: PreparedDataset, split: SplitName, row: int, values: RawValues | None = None
) -> Explanation:
    """The attention weights and selected fields for one row, in evaluation mode.

    Args:
        model: trained on ``dataset``.
        dataset, split, row: which row, counted from 0.
        values: of ``dataset``; share them between rows, as they read whole vocabularies.

    Raises:
        ValueError: the split has no such row, the model has neither attention nor neurons that select, or it was
            trained on data of another schema.
    """
    attention = has_attention(model)
    if not attention and not has_selection(model):
        raise ValueError(
            f"the model's history tower {model.config.history!r} has no attention weights, and its interaction "
            f"{model.config.interaction!r} selects no fields; train with --history din or --model armnet"
        )
    if model.schema.to_json() != dataset.schema.to_json():
        raise ValueError(f"the model was trained on other columns or vocabularies than those of {dataset.name!r}")
    rows: Split = getattr(dataset, split)
    if not 0 <= row < len(rows):
        raise ValueError(f"row {row}: split {split!r} of {dataset.name!r} has rows 0 to {len(rows) - 1}")
    was_training = model.training
    model.eval()
    batch = rows.batch(np.array([row]), model.config.max_history).to(model.table.device)
    values = values or RawValues(dataset)
    names = dataset.schema.behaviours if attention else ()
    behaviours = tuple(_attention(model, batch, name, values) for name in names)
    neurons = selected_fields(model, batch) if has_selection(model) else ()
    probability = float(torch.sigmoid(model(batch).float())[0])
    model.train(was_training)
    return Explanation(
        dataset=dataset.name,
        split=split,
        row=row,
        label=float(rows.labels[row]),
        probability=probability,
        weights=getattr(model.config.history_config, "weights", "raw"),
        features={
            feature.name: values.of(feature.vocabulary, [int(batch.ids[0, column])])[0]
            for column, feature in enumerate(dataset.schema.categorical)
        },
        behaviours=behaviours,
        neurons=neurons,
    )


def _attention(model: CTRModel, batch: Batch, behaviour: str, values: RawValues) -> BehaviourAttention:
    schema = model.schema
    weights, _ = model.attention(batch, behaviour)
    features = schema.behaviours[behaviour]
    columns = {}
    for feature in features:
        ids = batch.histories[feature.name].values  # as long as the tower reads: the batch was cut to that
        columns[feature.name] = values.of(feature.vocabulary, ids.tolist())
    targets = {
        feature.name: values.of(feature.vocabulary, [int(batch.ids[0, schema.categorical_index(feature.target)])])[0]
        for feature in features
        if feature.target is not None
    }
    events = tuple(
        Event(weight, {name: column[index] for name, column in columns.items()})
        for index, weight in enumerate(weights.float().tolist())
    )
    return BehaviourAttention(behaviour, targets, events, float(weights.sum()))


def explain_checkpoint(
    dataset: PreparedDataset, checkpoint: Path | str, split: SplitName, row: int, device: torch.device | str = "cpu"
) -> Explanation:
    """:func:`explain_row` for what ``rectab train --out`` wrote: the folder, or its ``model.safetensors``.

    Raises:
        FileNotFoundError: there is no trained model.
        ValueError: see :func:`explain_row` and :func:`rectab.training.artifact.load_model`.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = path / MODEL_FILE
        if not path.exists():
            raise FileNotFoundError(f"{checkpoint}: no {MODEL_FILE}; give the --out folder of a finished rectab train")
    return explain_row(load_model(path, device=resolve_device(device)), dataset, split, row)


def rows_to_explain(split: Split, count: int, least_events: int = 5) -> list[int]:
    """Rows to show, chosen without looking at a model: the first clicked row of each of the first ``count`` groups that
    has at least ``least_events`` events in every behaviour. Fewer if there are not so many.

    Args:
        split: validation; the test split is not for choosing.
        count: most rows to give.
        least_events: shorter histories show little.
    """
    enough = split.labels > 0.5
    for behaviour in split.schema.behaviours:
        enough &= split.history_lengths(behaviour) >= least_events
    found = np.flatnonzero(enough)
    if split.groups is not None:
        _, first = np.unique(split.groups[found], return_index=True)
        found = found[np.sort(first)]
    return [int(row) for row in found[:count]]

"""Settings for who gives none: a rule of what the training rows are like.

It is read off the settings that validation chose on the data sets of docs/results.md, and stated in docs/reference.md.
``rectab train``, ``choose`` and ``tune`` read it; a sweep file states its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rectab.data.dataset import PreparedDataset
from rectab.models.registry import get_interaction

__all__ = ["Facts", "Settings", "default_settings", "flat", "settings_of", "written"]

_FEWEST_ROWS, _MOST_ROWS = 256, 4096
_STEPS = 100  # an epoch should have so many, and may have half of it
_SMALL = 1_000_000  # training rows: with fewer, ids are met a few times and the table is learned by heart


@dataclass(frozen=True)
class Facts:
    """What the rule asks of a data set.

    Attributes:
        rows: of training.
        histories: whether rows have histories.
    """

    rows: int
    histories: bool

    @classmethod
    def of(cls, dataset: PreparedDataset) -> Facts:
        return cls(len(dataset.train), bool(dataset.schema.behaviours))


@dataclass(frozen=True)
class Settings:
    """Attributes:
    history: the history tower.
    training: of :class:`rectab.training.TrainConfig`, by name.
    model: options of the interaction, by name; under ``history`` those of the tower.
    """

    history: str
    training: dict[str, Any]
    model: dict[str, Any]


def default_settings(facts: Facts, model: str = "deepfm") -> Settings:
    """Settings for a data set with these facts.

    Args:
        facts: of its training rows.
        model: the interaction; options that it does not have are left out.
    """
    batch_size = _power_of_two(facts.rows / _STEPS)
    steps = max(facts.rows // batch_size, 1)
    small = facts.rows < _SMALL
    known = {field.name for field in fields(get_interaction(model).config)}
    network = bool(known & {"hidden", "dropout"})  # what follows takes any scale; without it a vector's length counts
    training: dict[str, Any] = {
        "batch_size": batch_size,
        "lr": 1e-3 if network else 1e-2,
        "embedding_l2": (0.1 if network else 1e-3) if small else 0.0,
        "evaluations_per_epoch": 2 if steps < 200 else 4,
        "max_epochs": 40,
        "patience": 6,
        "lr_patience": 2,
    }
    options = {name: value for name, value in {"dropout": 0.2 if small else 0.0}.items() if name in known}
    return Settings("mean" if facts.histories else "none", training, options)


def settings_of(
    dataset: PreparedDataset,
    model: str = "deepfm",
    history: str | None = None,
    training: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """The rule's settings for a data set, with those that somebody gave in their place.

    Args:
        dataset: the data.
        model: the interaction.
        history: the tower; None asks the rule.
        training: settings of training that were given, by name.
        options: of the model that were given, by name.
    """
    given = dict(training or {})
    if given.get("objective", "logloss") != "logloss":  # the rule is of clicks
        return Settings(history or "none", given, dict(options or {}))
    found = default_settings(Facts.of(dataset), model)
    chosen = {**found.training, **given}
    # Torch's own optimizers have no L2 or one kind of it; FBGEMM's have none of rows that a step did not touch.
    if chosen.get("gradient", "row") != "row" or chosen.get("fused_optimizer"):
        chosen = {name: value for name, value in chosen.items() if name in given or "embedding_l2" not in name}
    return Settings(history or found.history, chosen, {**found.model, **(options or {})})


def _power_of_two(value: float) -> int:
    """The nearest one, by ratio, that a batch may have."""
    exponent = round(math.log2(max(value, 1)))
    return min(max(2**exponent, _FEWEST_ROWS), _MOST_ROWS)


def flat(place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names for ``--set``: ``train.lr``, ``model.history.hidden``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        below = f"{place}.{name}"
        found |= flat(below, value) if isinstance(value, dict) else {below: value}
    return found


def written(value: Any) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(written, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)

"""Which settings tuning chose: the trial with the best validation AUC, the same number of trials for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rectab.sweep.config import SweepConfig
from rectab.sweep.grid import CellKey, RunSpec, Settings

__all__ = ["choose_settings", "validation_auc"]


def validation_auc(record: Mapping[str, Any] | None) -> float | None:
    """Validation AUC of a finished run's record; None if it has none."""
    if record is None or record["status"] != "ok":
        return None
    auc: float | None = record["result"]["valid"].get("auc")
    return auc


def choose_settings(
    config: SweepConfig, trials: Mapping[CellKey, list[RunSpec]], read: Callable[[str], dict[str, Any] | None]
) -> dict[CellKey, Settings]:
    """Settings by cell. A cell none of whose trials succeeded is left out and keeps the sweep's own settings.

    Args:
        config: the sweep.
        trials: from :func:`rectab.sweep.grid.expand_trials`.
        read: hash -> record, or None.
    """
    if config.tuning is None:
        return {}
    candidates = config.tuning.trials()
    chosen: dict[CellKey, Settings] = {}
    for cell, specs in trials.items():
        scores = [validation_auc(read(spec.hash)) for spec in specs]
        finished = [(score, -position) for position, score in enumerate(scores) if score is not None]
        if finished:  # equal scores: the first in the file
            chosen[cell] = candidates[-max(finished)[1]]
    return chosen

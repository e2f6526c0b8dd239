"""What the course of a training says about its settings: sentences for the one who chose them, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["advice"]

_FEW_STEPS = 50


def advice(stages: Sequence[Mapping[str, Any]], train: Mapping[str, Any]) -> list[str]:
    """What to change, for stages that ended while still rising or were best at their first evaluation.

    Args:
        stages: records of a result's stages, see :class:`rectab.training.stage_state.StageRecord`.
        train: its training settings.
    """
    found = [_of_stage(stage, train, len(stages) > 1) for stage in stages if stage["evaluations"] and stage["steps"]]
    return [sentence for sentence in found if sentence]


def _of_stage(stage: Mapping[str, Any], train: Mapping[str, Any], named: bool) -> str | None:
    where = f"stage {stage['stage']!r}" if named else "training"
    best, evaluations, monitor = stage["best_evaluation"], stage["evaluations"], train["monitor"]
    steps = stage["steps"] / stage["epochs"] if stage["epochs"] else 0.0
    few = steps < _FEW_STEPS
    if evaluations > 1 and best == evaluations:
        smaller = (
            f", or a smaller batch_size (an epoch is {steps:.0f} steps of {train['batch_size']} rows)" if few else ""
        )
        epochs = f"{stage['epochs']:g} epoch{'s' * (stage['epochs'] != 1)}"
        return (
            f"{where} ended after {epochs} with {monitor} on validation still rising: its last evaluation was its "
            f"best. Try a larger max_epochs (now {train['max_epochs']}) or lr (now {train['lr']:g}){smaller}."
        )
    if evaluations > 1 and best == 1:
        begun = f"{monitor} on validation was best at the first of {evaluations} evaluations"
        more = f"more evaluations_per_epoch (now {train['evaluations_per_epoch']})"
        return (
            f"{where}: {begun} and fell from there on, so the rows are learned by heart. Try a smaller lr "
            f"(now {train['lr']:g}), some embedding_l2 (now {train['embedding_l2']:g}) or {more}."
        )
    return None

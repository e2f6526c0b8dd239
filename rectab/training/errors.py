"""Errors of training: every message says where the run stood and what to try."""

from __future__ import annotations

__all__ = ["CheckpointError", "TrainingError"]


class TrainingError(RuntimeError):
    """Training has diverged or cannot go on."""


class CheckpointError(ValueError):
    """A folder holds checkpoints that do not belong to this run, or that are damaged."""

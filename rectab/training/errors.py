"""Errors of training: every message says where the run stood and what to try."""

from __future__ import annotations

__all__ = ["CheckpointError", "TrainingError"]


class TrainingError(RuntimeError):
    """Training has diverged or cannot go on."""


class CheckpointError(ValueError):
    """A folder holds checkpoints, or the result, of another run, or files of this one that are damaged or missing."""

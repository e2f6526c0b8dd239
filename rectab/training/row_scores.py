"""What a finished run scored the test rows with, on disk: two runs are then compared row by row."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rectab.atomic_file import write_atomic

__all__ = ["SCORES_FILE", "RowScores", "load_scores", "save_scores"]

SCORES_FILE = "test_scores.npz"
"""Where a run keeps them, within its folder."""

_MOST_ROWS = 200_000


@dataclass(frozen=True)
class RowScores:
    """Attributes:
    labels: bool [n].
    scores: float32 [n]: logits. Of a large split every k-th row, the same for every run.
    """

    labels: np.ndarray
    scores: np.ndarray


def save_scores(path: Path, labels: np.ndarray, scores: np.ndarray) -> None:
    """Write them; the file appears whole."""
    step = -(-len(labels) // _MOST_ROWS)
    buffer = io.BytesIO()
    np.savez(buffer, labels=np.packbits(labels[::step] > 0), scores=scores[::step].astype(np.float32))
    write_atomic(path, buffer.getvalue())


def load_scores(path: Path) -> RowScores | None:
    """What :func:`save_scores` wrote; None if there is no such file, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            scores = kept["scores"]
            labels = np.unpackbits(kept["labels"], count=len(scores)).astype(bool)
    except (OSError, ValueError, KeyError):
        return None
    return RowScores(labels, scores)

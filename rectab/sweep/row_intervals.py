"""How much a difference between two tables would vary with the test rows: DeLong's intervals, beside t over seeds."""

from __future__ import annotations

import numpy as np

from rectab.delong import FEWEST_ROWS, aucs_on_rows
from rectab.sweep.analysis import Cell
from rectab.sweep.store import RunStore
from rectab.training.row_scores import RowScores, load_scores

__all__ = ["RowIntervals"]


class RowIntervals:
    """Reads what runs scored the test rows with.

    Args:
        store: of the sweep. Runs of before scores were kept have none.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def difference(self, cell: Cell, reference: Cell) -> float | None:
        """Half-width of the 95 % interval over test rows for the mean difference of the seeds that both ran; None where
        a score is missing, or the two did not score the same rows."""
        scores: list[np.ndarray] = []
        labels: np.ndarray | None = None
        common = [seed for seed in cell.rows if seed in reference.rows]
        for seed in common:
            for row in (cell.rows[seed], reference.rows[seed]):
                kept = self._load(row["hash"])
                if kept is None or (labels is not None and not np.array_equal(labels, kept.labels)):
                    return None
                labels = kept.labels
                scores.append(kept.scores)
        if labels is None or min(labels.sum(), (~labels).sum()) < FEWEST_ROWS:
            return None
        weights = np.tile([1.0, -1.0], len(common)) / len(common)
        return aucs_on_rows(labels, scores).half_width(weights)

    def _load(self, key: str | None) -> RowScores | None:
        return None if key is None else load_scores(self._store.scores_path(key))

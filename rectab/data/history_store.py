"""The histories of one behaviour in a prepared data set: every event once, and which of them each row sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from rectab.batch import Jagged
from rectab.data.context import num_buckets, positions_back, time_gaps, unknown_time
from rectab.data.errors import DataError
from rectab.jit import kernel
from rectab.schema import Feature

__all__ = ["HistoryStore"]

_COUNTED_ROWS = 1 << 16


@dataclass(frozen=True)
class HistoryStore:
    """The histories of one behaviour: every event once, and which of them each row sees.

    Attributes:
        features: the sequence features of the behaviour.
        ranges: int64 [n, 2]: row i sees the events ``start .. start + length - 1``, oldest first.
        values: one array [E] per feature, shared by all splits: int32 or int64 ids; int64 or float64 times for a
            ``time_gap`` (:mod:`rectab.data.context`); None for a ``position``.
        row_times: [n] of the type of the times, where a feature is a ``time_gap``.
    """

    features: tuple[Feature, ...]
    ranges: np.ndarray
    values: tuple[np.ndarray | None, ...]
    row_times: np.ndarray | None = None

    def gather(self, rows: np.ndarray | slice, max_history: int | None) -> dict[str, Jagged]:
        """The histories of ``rows``, each cut to its ``max_history`` most recent events."""
        ranges = self.ranges[rows]
        starts, lengths = ranges[:, 0], ranges[:, 1]
        events = min((len(values) for values in self.values if values is not None), default=None)
        if len(ranges) and (ranges.min() < 0 or (events is not None and (starts + lengths).max() > events)):
            raise DataError(
                f"a history of {self.features[0].behaviour!r} goes beyond the {events} events there are: the prepared "
                "data set is damaged, run `rectab prepare` again"
            )
        if max_history is not None:
            kept = np.minimum(lengths, max_history)
            starts, lengths = starts + (lengths - kept), kept
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        shared_offsets = torch.from_numpy(offsets)
        histories = {}
        for feature, values in zip(self.features, self.values, strict=True):
            gathered = np.empty(offsets[-1], np.int64)
            edges = np.asarray(feature.edges, np.float64)
            if values is None:
                positions_back(offsets, edges, gathered)
            elif feature.context == "time_gap":
                assert self.row_times is not None
                unknown = unknown_time(values.dtype)
                time_gaps(values, unknown, starts, self.row_times[rows], offsets, edges, gathered)
            else:
                _gather_ranges(values, starts, offsets, gathered)
            histories[feature.name] = Jagged(torch.from_numpy(gathered), shared_offsets)
        return histories

    def context_counts(self, rows: np.ndarray, max_history: int | None) -> dict[str, np.ndarray]:
        """By ``context`` feature, int64 [num_embeddings]: how often its ids occur in the histories of ``rows``."""
        kept = [i for i, feature in enumerate(self.features) if feature.context is not None]
        features = tuple(self.features[i] for i in kept)
        store = replace(self, features=features, values=tuple(self.values[i] for i in kept))
        counts = {feature.name: np.zeros(num_buckets(feature.edges), np.int64) for feature in features}
        for start in range(0, len(rows) if features else 0, _COUNTED_ROWS):
            gathered = store.gather(rows[start : start + _COUNTED_ROWS], max_history)
            for name, own in counts.items():
                own += np.bincount(gathered[name].values.numpy(), minlength=len(own))
        return counts

    def times_seen(self, rows: np.ndarray | slice, max_history: int | None) -> np.ndarray:
        """int64 [E]: how many of ``rows`` see each event among their ``max_history`` most recent ones."""
        ranges, events = self.ranges[rows], max(len(values) for values in self.values if values is not None)
        ends = ranges.sum(axis=1)
        lengths = ranges[:, 1] if max_history is None else np.minimum(ranges[:, 1], max_history)
        change = np.bincount(ends - lengths, minlength=events + 1) - np.bincount(ends, minlength=events + 1)
        return np.cumsum(change)[:events]


@kernel
def _gather_ranges(values: np.ndarray, starts: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(starts)):
        shift = starts[row] - offsets[row]
        for position in range(offsets[row], offsets[row + 1]):
            out[position] = values[position + shift]

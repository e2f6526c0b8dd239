"""Sequence features that say what an event is to the row that reads it: how far back it is, how long ago it was.

They cannot be stored with the event, which many rows share, so their ids are worked out when rows are gathered. An id
is 1 + the bucket between the feature's edges; 0 is "not known" (events from before the log, which have no time).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from rectab.jit import kernel

__all__ = ["bucket_names", "num_buckets", "positions_back", "time_gaps", "unknown_time"]


def num_buckets(edges: Sequence[float]) -> int:
    """Ids there are, 0 included."""
    return len(edges) + 2


def unknown_time(dtype: np.dtype) -> np.generic:
    """What stands for the time of an event that has none, among int64 or float64 times: less than all others."""
    return dtype.type(-np.inf) if dtype.kind == "f" else dtype.type(np.iinfo(dtype).min)


def bucket_names(edges: Sequence[float]) -> pl.DataFrame:
    """(value, id) of every bucket, for people: ``below 2``, ``2 to below 3``, ``3 and more``."""
    shown = [f"{edge:g}" for edge in edges]
    between = [f"{low} to below {high}" for low, high in pairwise(shown)]
    values = [f"below {shown[0]}", *between, f"{shown[-1]} and more"]
    return pl.DataFrame({"value": values, "id": range(1, len(values) + 1)}, schema={"value": pl.String, "id": pl.Int64})


@kernel
def positions_back(offsets: np.ndarray, edges: np.ndarray, out: np.ndarray) -> None:
    """Buckets of the number of steps back, 1 for a row's most recent event.

    Args:
        offsets: int64 [B + 1].
        edges: float64, ascending.
        out: int64 [offsets[-1]], filled.
    """
    for row in range(len(offsets) - 1):
        for position in range(offsets[row], offsets[row + 1]):
            out[position] = 1 + np.searchsorted(edges, float(offsets[row + 1] - position), side="right")


@kernel
def time_gaps(
    times: np.ndarray,
    unknown: float,
    starts: np.ndarray,
    row_times: np.ndarray,
    offsets: np.ndarray,
    edges: np.ndarray,
    out: np.ndarray,
) -> None:
    """Buckets of the row's time minus the event's.

    Args:
        times: int64 or float64 [E] of all events.
        unknown: what stands in ``times`` where a time is not known (:func:`unknown_time`).
        starts: int64 [B], the first event of every row.
        row_times: [B], of the type of ``times``.
        offsets: int64 [B + 1].
        edges: float64, ascending, in the unit of the times.
        out: int64 [offsets[-1]], filled.
    """
    for row in range(len(starts)):
        shift = starts[row] - offsets[row]
        for position in range(offsets[row], offsets[row + 1]):
            time = times[position + shift]
            if time > unknown:
                out[position] = 1 + np.searchsorted(edges, float(row_times[row] - time), side="right")
            else:
                out[position] = 0

"""Which events each row sees: every event is stored once, and a row's history is a stretch of its group's events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rectab.data.context import unknown_time
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.roles import id_column
from rectab.data.sources import Sources
from rectab.data.splits import rank_in_group
from rectab.data.staged import GROUP, TIME, StagedTable
from rectab.data.staged_events import stage_events, stage_prior
from rectab.data.staging import condition_column
from rectab.data.vocabularies import Codes
from rectab.jit import kernel

__all__ = ["EventOrder", "Groups", "build_history", "event_codes", "mark_seen"]

_BEFORE_ALL = np.iinfo(np.int64).min


@dataclass
class Groups:
    """The rows' groups as codes.

    Attributes:
        values: distinct raw groups, ascending.
        codes: int64 [n].
    """

    values: pl.Series
    codes: np.ndarray

    @classmethod
    def of(cls, column: pl.Series) -> Groups:
        """The groups of ``column`` [n]."""
        values = column.unique().sort()
        return cls(values, _lookup(values, column))

    def codes_of(self, column: pl.Series) -> np.ndarray:
        """int64 [m]: -1 where the group has no rows."""
        return _lookup(self.values, column)


@dataclass
class EventOrder:
    """The events of one behaviour, group after group, oldest first.

    Attributes:
        history: the recipe's part.
        ranges: int64 [n, 2]: (start, length) of the events each staged row sees, not yet cut to ``max_length``.
        pieces: (key, table or None for the rows, rows taken): the events are these pieces' rows, laid end to end ...
        order: ... and then taken in this order, int64 [E].
        times: int64 or float64 [E], what to measure gaps by, in stored order; the least there is for prior events.
            None if no context needs it.
        row_times: [n] of the staged rows, likewise.
    """

    history: HistoryRecipe
    ranges: np.ndarray
    order: np.ndarray
    pieces: list[tuple[str, StagedTable | None, np.ndarray | None]] = field(default_factory=list)
    times: np.ndarray | None = None
    row_times: np.ndarray | None = None

    def cut(self) -> np.ndarray:
        """int64 [n, 2]: ranges of at most ``max_length`` most recent events."""
        if self.history.max_length is None:
            return self.ranges
        length = np.minimum(self.ranges[:, 1], self.history.max_length)
        return np.stack([self.ranges[:, 0] + self.ranges[:, 1] - length, length], axis=1)


@dataclass
class _Piece:
    """Some events: the rows ``chosen`` (None: all) of a table (None: the rows of the log), and their groups' codes."""

    key: str
    table: StagedTable | None
    chosen: np.ndarray | None
    groups: np.ndarray

    @classmethod
    def known(cls, key: str, table: StagedTable, groups: Groups) -> _Piece:
        """The events of the groups that have rows."""
        codes = groups.codes_of(table.column(GROUP))
        chosen = np.flatnonzero(codes >= 0)
        return cls(key, table, chosen, codes[chosen])


def build_history(history: HistoryRecipe, rows: StagedTable, groups: Groups | None, sources: Sources) -> EventOrder:
    """Lay out the events of one behaviour and find what each row sees.

    A row sees events of its group with a time strictly before its own, a date that is over included (``by =
    "position"``: the group's rows before it, where they are the log). Prior events come before all others. The row
    itself is never among them.
    """
    if history.source == "list":
        return _from_lists(history, rows)
    assert groups is not None
    assert sources.recipe.time is not None
    clock = rows.times(TIME, sources.recipe.time)
    own_log = sources.reads_own_log(history)
    if own_log:
        chosen = None
        if history.where is not None:
            chosen = np.flatnonzero(rows.column(condition_column(history.behaviour)).to_numpy())
        own, times = _Piece("rows", None, chosen, _taken(groups.codes, chosen)), clock.take(chosen)
    else:
        events = stage_events(sources, history)
        own = _Piece.known(f"events:{history.behaviour}", events, groups)
        times = events.times(TIME, history.time or sources.recipe.time).take(own.chosen)
    row_keys, event_keys = clock.keys(times.ends())
    if history.by == "position" and own_log:
        row_keys = rank_in_group(groups.codes, row_keys)
        event_keys = _taken(row_keys, own.chosen)
    pieces = [own]
    if history.prior is not None:
        pieces.insert(0, _Piece.known(f"prior:{history.behaviour}", stage_prior(sources, history), groups))
    group = np.concatenate([piece.groups for piece in pieces])
    keys = np.concatenate([np.full(len(group) - len(event_keys), _BEFORE_ALL), event_keys])
    order = np.lexsort((keys, group))
    starts = np.zeros(len(groups.values) + 1, np.int64)
    np.cumsum(np.bincount(group, minlength=len(groups.values)), out=starts[1:])
    ranges = np.empty((rows.rows, 2), np.int64)
    _count_before(groups.codes, row_keys, starts, keys[order], ranges)
    laid = EventOrder(history, ranges, order, [(piece.key, piece.table, piece.chosen) for piece in pieces])
    if any(context.of == "time_gap" for context in history.context):
        laid.row_times, event_times = clock.measured(times)
        unknown = np.full(len(group) - len(event_times), unknown_time(event_times.dtype))
        laid.times = np.concatenate([unknown, event_times])[order]
    return laid


def _taken(codes: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
    return codes if chosen is None else codes[chosen]


def mark_seen(ranges: np.ndarray, events: int) -> np.ndarray:
    """bool [events]: is the event in at least one of the ranges (int64 [m, 2])?"""
    change = np.zeros(events + 1, np.int64)
    used = ranges[ranges[:, 1] > 0]
    np.add.at(change, used[:, 0], 1)
    np.add.at(change, used.sum(axis=1), -1)
    return np.cumsum(change[:-1]) > 0


def event_codes(order: EventOrder, column: str, codes: Codes) -> np.ndarray:
    """int32 [E]: codes of the events in stored order."""
    pieces = []
    for piece, _, chosen in order.pieces:
        array = codes.arrays[f"{piece}/{column}"]
        pieces.append(np.asarray(array) if chosen is None else array[chosen])
    return np.concatenate(pieces)[order.order]


def _from_lists(history: HistoryRecipe, rows: StagedTable) -> EventOrder:
    """Rows that carry their own lists, which are equally long."""
    lengths = rows.column(id_column(history.sequences[0].column)).list.len().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    ranges = np.stack([starts, lengths], axis=1)
    return EventOrder(history, ranges, np.arange(lengths.sum()), [(f"list:{history.behaviour}", None, None)])


@kernel
def _count_before(
    row_group: np.ndarray, row_time: np.ndarray, starts: np.ndarray, event_time: np.ndarray, ranges: np.ndarray
) -> None:
    for row in range(len(row_group)):
        first, last = starts[row_group[row]], starts[row_group[row] + 1]
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            if event_time[middle] < row_time[row]:
                low = middle + 1
            else:
                high = middle
        ranges[row, 0] = first
        ranges[row, 1] = low - first


def _lookup(values: pl.Series, column: pl.Series) -> np.ndarray:
    if column.dtype != values.dtype:
        values, column = values.cast(pl.String), column.cast(pl.String)
    table = pl.DataFrame({"value": values, "code": np.arange(len(values), dtype=np.int64)})
    frame = column.alias("value").to_frame()
    return frame.join(table, on="value", how="left", maintain_order="left")["code"].fill_null(-1).to_numpy()

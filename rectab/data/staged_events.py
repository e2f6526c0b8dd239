"""Events of histories that are not the rows at hand: of their own files, of a log elsewhere, from before the log."""

from __future__ import annotations

import polars as pl

from rectab.data.checks import BAD, CELL, Checks
from rectab.data.derived import roots_of
from rectab.data.errors import RecipeError
from rectab.data.lists import LIST_NEEDED, lists_of
from rectab.data.reading import FILE, ROW, RawFile
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.roles import RawColumns, check_lengths
from rectab.data.sources import Sources
from rectab.data.staged import GROUP, TIME, StagedTable, columns_of, condition_of, require, sink, with_derived

__all__ = ["event_columns", "stage_events", "stage_prior"]


def event_columns(history: HistoryRecipe) -> set[str]:
    """What a history reads of its events, beside group and time."""
    where = set() if history.where is None else roots_of(history.where)
    return {sequence.column for sequence in history.sequences} | where


def stage_events(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage the events of one behaviour that are not the rows at hand: ``__group``, ``__time`` and the sequences'
    columns. They are of its own files, or of those of the log (:attr:`Sources.log`)."""
    locations = [history] if history.source == "events" else sources.log or ()
    raws = enumerate(raw for location in locations for raw in sources.open(location))
    return sink(
        sources, [_staged_events(sources, raw, index, history) for index, raw in raws], f"events-{history.behaviour}"
    )


def _staged_events(sources: Sources, raw: RawFile, index: int, history: HistoryRecipe) -> RawColumns:
    recipe = sources.recipe
    group, time = history.group or recipe.group, history.time or recipe.time
    assert group is not None
    assert time is not None
    if history.source == "log":
        frame, columns = with_derived(sources, raw, {group, time, *event_columns(history)})
        require(raw, columns, [group, time], f"of behaviour {history.behaviour!r}")
    else:
        raw.require([group, time], f"of behaviour {history.behaviour!r}")
        frame, columns = sources.join(raw.frame, raw.columns)
    require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    if history.where is not None:
        frame = frame.filter(condition_of(history, frame, columns, raw))
    staging = columns_of(raw, frame, sources, index)
    staging.key(group, GROUP, "the group")
    staging.time(time, TIME)
    for sequence in history.sequences:
        staging.id(sequence.column)
    return staging


def stage_prior(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage a behaviour's events from before the log: ``__group`` and the sequences' columns, oldest first."""
    assert history.prior is not None
    raws = enumerate(sources.open(history.prior))
    return sink(
        sources, [_staged_prior(sources, raw, index, history) for index, raw in raws], f"prior-{history.behaviour}"
    )


def _staged_prior(sources: Sources, raw: RawFile, index: int, history: HistoryRecipe) -> RawColumns:
    prior = history.prior
    assert prior is not None
    assert sources.recipe.group is not None
    group = prior.group or sources.recipe.group
    raw.require([group, *prior.lists.values()], f"prior events of behaviour {history.behaviour!r}")
    if group in prior.lists:
        raise RecipeError(f"prior events of behaviour {history.behaviour!r}: {group!r} is their group and no list")
    frame = _prior_lists(sources, raw, history).select(ROW, group, *prior.lists)
    frame = frame.filter(pl.col(next(iter(prior.lists))).list.len() > 0).explode(*prior.lists)
    frame, columns = sources.join(frame, prior.lists)
    require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    staging = columns_of(raw, frame, sources, index)
    staging.key(group, GROUP, "the group")
    for sequence in history.sequences:
        staging.id(sequence.column)
    return staging


def _prior_lists(sources: Sources, raw: RawFile, history: HistoryRecipe) -> pl.LazyFrame:
    """The rows of a file of prior events, with a list under the name of each column of the events."""
    assert history.prior is not None
    lists, schema, checks = history.prior.lists, raw.frame.collect_schema(), Checks()
    taken = {column: f"__list:{column}" for column in lists.values()}
    frame = raw.frame.with_columns(
        lists_of(column, schema[column], history.separator, raw.null_values).alias(name)
        for column, name in taken.items()
    )
    for column, name in taken.items():
        checks.add(column, pl.col(column).is_not_null() & pl.col(name).is_null(), LIST_NEEDED)
    check_lengths(checks, list(taken), list(taken.values()), history.behaviour)
    frame = frame.with_columns(pl.lit(0).alias(FILE), *checks.columns(schema))
    marks = frame.select(FILE, ROW, BAD, CELL).collect()
    sources.bad.leave_out(marks.filter(pl.col(BAD) > 0), len(marks), [raw], [checks])
    return frame.filter(pl.col(BAD) == 0).with_columns(
        pl.col(taken[column]).alias(name) for name, column in lists.items()
    )

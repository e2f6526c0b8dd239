"""First pass over the raw files: check every row and write the columns a recipe uses to one scratch parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rectab.data.errors import DataError
from rectab.data.ids import canonical_ids
from rectab.data.inputs import check_read_once, is_one_file
from rectab.data.reading import RawFile
from rectab.data.recipe import Recipe
from rectab.data.roles import RawColumns
from rectab.data.sources import Sources
from rectab.data.splits import stage_split
from rectab.data.staged import (
    GROUP,
    ITEM,
    LABEL,
    LABEL_ID,
    PROBABILITY,
    SPLIT,
    TIME,
    StagedTable,
    columns_of,
    condition_of,
    require,
    sink,
    with_derived,
)
from rectab.named import instead_of

__all__ = ["condition_column", "needed_columns", "stage_rows"]


def condition_column(behaviour: str) -> str:
    """Name of the staged boolean: does the row become an event of the behaviour?"""
    return f"__event:{behaviour}"


def stage_rows(sources: Sources) -> StagedTable:
    """Check and stage the rows of every file of the recipe.

    Raises:
        DataError: naming file, column and row.
    """
    check_read_once(_files_of_rows(sources))
    opened = [(raw, file.split) for file in sources.recipe.files for raw in sources.open(file)]
    parts = [_staged_columns(sources, raw, index, split) for index, (raw, split) in enumerate(opened)]
    rows = sink(sources, parts, "rows")
    _check_positives(sources.recipe, rows)
    return rows


def _files_of_rows(sources: Sources) -> list[Path]:
    """The files of the rows. One that is named twice as a file, say for two splits, is meant to be."""
    named: dict[Path, None] = {}
    found: list[Path] = []
    for location in sources.recipe.files:
        paths = [file.path for file in sources.find(location)]
        if is_one_file(sources.folder, location):
            named |= dict.fromkeys(paths)
        else:
            found += paths
    return [*named, *found]


def _staged_columns(sources: Sources, raw: RawFile, index: int, split: str | None) -> RawColumns:
    recipe = sources.recipe
    needed = needed_columns(recipe, sources.log is None)
    raw.require([t.on for t in recipe.tables if t.on in needed], "the key of a side table")
    frame, columns = with_derived(sources, raw, None if sources.log is None else needed)
    for column, why in needed.items():
        require(raw, columns, [column], why)
    staging = columns_of(raw, frame, sources, index)
    staging.staged[SPLIT] = pl.lit(split or "")
    if recipe.group is not None:
        staging.key(recipe.group, GROUP, "the group")
    if recipe.time is not None:
        staging.time(recipe.time, TIME)
    _stage_label(recipe, staging)
    _stage_inputs(recipe, staging, sources.log is None)
    for history in recipe.histories:
        if sources.reads_own_log(history) and history.where is not None:
            staging.staged[condition_column(history.behaviour)] = condition_of(history, frame, columns, raw)
    return staging


def needed_columns(recipe: Recipe, own_log: bool) -> dict[str, str]:
    """Columns that the recipe uses of its rows, and what for; ``own_log``: the rows are the events of logs."""
    needed = {f.column: f"feature {f.name!r}" for f in recipe.features}
    for history in recipe.histories:
        if history.source == "list" or (history.source == "log" and own_log):
            needed |= {s.column: f"sequence {s.name!r}" for s in history.sequences}
    if recipe.label is not None:
        needed[recipe.label.column] = "the label"
    for column, why in ((recipe.group, "the group"), (recipe.time, "the time"), (recipe.split.column, "the split")):
        if column is not None:
            needed.setdefault(column, why)
    if recipe.negatives is not None:
        needed.setdefault(recipe.negatives.item, "the item of negative sampling")
        for column in recipe.negatives.item_columns:
            needed.setdefault(column, "negatives.item_columns")
    return needed


def _stage_inputs(recipe: Recipe, staging: RawColumns, own_log: bool) -> None:
    """The features' and histories' columns, as ids or numbers, and what splits and negatives are made by."""
    for feature in recipe.features:
        if feature.type == "dense" or feature.bins is not None:
            name = staging.number(feature.column)
            staging.staged[name] = pl.col(name)
        else:
            staging.id(feature.column)
    for history in recipe.histories:
        columns = [sequence.column for sequence in history.sequences]
        if history.source == "list":
            staging.lists(columns, history)
        for column in columns if history.source == "log" and own_log else ():
            staging.id(column)
    if recipe.negatives is not None:
        staging.key(recipe.negatives.item, ITEM, "the item of negative sampling")
    stage_split(recipe.split, staging)
    if recipe.probability is not None:
        probability = pl.col(staging.number(recipe.probability))
        staging.checks.add(recipe.probability, probability.is_null(), "the click probability must be known")
        staging.staged[PROBABILITY] = probability.cast(pl.Float32)


def _stage_label(recipe: Recipe, staging: RawColumns) -> None:
    label = recipe.label
    if label is None:
        return
    if label.positive is not None:
        staging.key(label.column, LABEL_ID, "the label")
        staging.staged[LABEL] = pl.col(LABEL_ID).cast(pl.String).is_in(_ids(label.positive)).cast(pl.Float32)
        return
    needed = "the label must be 0 or 1" if label.at_least is None else "the label needs a number"
    needed = "a rating must be a finite number" if label.rating else needed
    advice = "" if label.rating else "say which values are positive, positive = ['...'] in [label]"
    number = pl.col(staging.number(label.column, needed, advice))
    staging.checks.add(label.column, number.is_null(), needed)
    if label.at_least is not None:
        number = number >= label.at_least
    elif not label.rating:
        staging.checks.add(label.column, ~number.is_in([0.0, 1.0]), needed, advice)
    staging.staged[LABEL] = number.cast(pl.Float32)


def _ids(values: Sequence[str | int | float | bool]) -> list[str]:
    return canonical_ids(pl.Series([str(value) for value in values])).to_list()


def _check_positives(recipe: Recipe, rows: StagedTable) -> None:
    """Refuse a positive value that no row has: it is misspelt, and its rows would be negatives."""
    if recipe.label is None or recipe.label.positive is None or not rows.rows:
        return
    held = rows.column(LABEL_ID).cast(pl.String).unique().sort().to_list()
    for value, given in zip(_ids(recipe.label.positive), recipe.label.positive, strict=True):
        if value not in held:
            column, known = recipe.label.column, instead_of(value, held[:20])
            files = ", ".join(str(raw.path) for raw in rows.raw)
            raise DataError(f"{files}, column {column!r}: no row has the positive label {given!r}{known}")

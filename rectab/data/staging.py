"""First pass over the raw files: check every row and write the columns a recipe uses to one scratch parquet file.

Everything after it reads single columns of that file, so memory holds a column or two, not the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rectab.data.checks import BAD, CELL, Checks
from rectab.data.errors import DataError, RecipeError
from rectab.data.ids import canonical_ids, whole_numbers
from rectab.data.inputs import check_read_once, find_inputs, is_one_file
from rectab.data.lists import LIST_NEEDED, lists_of
from rectab.data.missing import with_missing
from rectab.data.reading import FILE, ROW, RawFile
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.roles import RawColumns, check_lengths
from rectab.data.sources import Sources
from rectab.data.splits import stage_split
from rectab.data.sql import alike_in_every_file, expression, first_line
from rectab.data.times import Times
from rectab.named import instead_of

__all__ = ["StagedTable", "condition_column", "stage_events", "stage_prior", "stage_rows"]

LABEL, LABEL_ID, TIME, GROUP, ITEM = "__label", "__label_id", "__time", "__group", "__item"
SPLIT, PROBABILITY = "__split", "__probability"


def condition_column(behaviour: str) -> str:
    """Name of the staged boolean: does the row become an event of the behaviour?"""
    return f"__event:{behaviour}"


@dataclass
class StagedTable:
    """A scratch parquet file of checked rows.

    Attributes:
        path: the file.
        rows: how many.
        raw: the files they came from, for messages.
        numeric: the staged ids that hold numbers in one of these files.
    """

    path: Path
    rows: int
    raw: list[RawFile]
    numeric: frozenset[str] = frozenset()

    def column(self, name: str) -> pl.Series:
        """[rows]: one staged column, read from the file."""
        column = pl.scan_parquet(self.path, glob=False).select(name).collect().to_series()
        return whole_numbers(column) if name in self.numeric else column

    def times(self, name: str, column: str) -> Times:
        """[rows]: the times staged as ``name`` from the raw column ``column``. DataError if they are of two kinds."""
        return Times.read(self, name, column)

    def place(self, row: int) -> str:
        """Where staged row ``row`` stands in the raw files."""
        at = pl.scan_parquet(self.path, glob=False).select(FILE, ROW).slice(row, 1).collect().row(0)
        return self.raw[at[0]].place(at[1])


def stage_rows(sources: Sources) -> StagedTable:
    """Check and stage the rows of every file of the recipe.

    Raises:
        DataError: naming file, column and row.
    """
    check_read_once(_files_of_rows(sources))
    opened = [(raw, file.split) for file in sources.recipe.files for raw in sources.open(file)]
    parts = [_staged_columns(sources, raw, index, split) for index, (raw, split) in enumerate(opened)]
    rows = _sink(sources, parts, "rows")
    _check_positives(sources.recipe, rows)
    return rows


def _files_of_rows(sources: Sources) -> list[Path]:
    """The files of the rows. One that is named twice as a file, say for two splits, is meant to be."""
    named: dict[Path, None] = {}
    found: list[Path] = []
    for location in sources.recipe.files:
        paths = [file.path for file in find_inputs(sources.folder, location)]
        if is_one_file(sources.folder, location):
            named |= dict.fromkeys(paths)
        else:
            found += paths
    return [*named, *found]


def stage_events(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage the events' files of one behaviour: ``__group``, ``__time`` and the sequences' columns."""
    raws = enumerate(sources.open(history))
    return _sink(
        sources, [_staged_events(sources, raw, index, history) for index, raw in raws], f"events-{history.behaviour}"
    )


def _staged_events(sources: Sources, raw: RawFile, index: int, history: HistoryRecipe) -> RawColumns:
    recipe = sources.recipe
    group, time = history.group or recipe.group, history.time or recipe.time
    assert group is not None
    assert time is not None
    raw.require([group, time], f"of behaviour {history.behaviour!r}")
    frame, columns = sources.join(raw.frame, raw.columns)
    _require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    if history.where is not None:
        frame = frame.filter(_condition(history, frame, columns, raw))
    staging = _columns_of(raw, frame, sources, index)
    staging.key(group, GROUP, "the group")
    staging.time(time, TIME)
    for sequence in history.sequences:
        staging.id(sequence.column)
    return staging


def stage_prior(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage a behaviour's events from before the log: ``__group`` and the sequences' columns, oldest first."""
    assert history.prior is not None
    raws = enumerate(sources.open(history.prior))
    return _sink(
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
    _require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    staging = _columns_of(raw, frame, sources, index)
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


def _columns_of(raw: RawFile, frame: pl.LazyFrame, sources: Sources, file: int) -> RawColumns:
    staging = RawColumns(raw, frame)
    staging.staged |= {FILE: pl.lit(file, pl.UInt32), ROW: pl.col(ROW)}
    for key in {table.on for table in sources.recipe.tables} & set(staging.schema):
        staging.check_ids(key)
    return staging


def _staged_columns(sources: Sources, raw: RawFile, index: int, split: str | None) -> RawColumns:
    recipe = sources.recipe
    raw.require([t.on for t in recipe.tables if t.on in _needed(recipe)], "the key of a side table")
    frame, columns = sources.join(raw.frame, raw.columns)
    for derived in recipe.derived:
        value = _sql(derived.sql, frame, columns, raw, f"derived column {derived.name!r}")
        frame = with_missing(frame.with_columns(value.alias(derived.name)), [derived.name])
        columns.append(derived.name)
    for column, why in _needed(recipe).items():
        _require(raw, columns, [column], why)
    staging = _columns_of(raw, frame, sources, index)
    staging.staged[SPLIT] = pl.lit(split or "")
    if recipe.group is not None:
        staging.key(recipe.group, GROUP, "the group")
    if recipe.time is not None:
        staging.time(recipe.time, TIME)
    _stage_label(recipe, staging)
    _stage_inputs(recipe, staging)
    for history in recipe.histories:
        if history.source == "log" and history.where is not None:
            staging.staged[condition_column(history.behaviour)] = _condition(history, frame, columns, raw)
    return staging


def _needed(recipe: Recipe) -> dict[str, str]:
    """Columns the recipe uses, and what for."""
    needed = {f.column: f"feature {f.name!r}" for f in recipe.features}
    for history in recipe.histories:
        if history.source != "events":
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


def _stage_inputs(recipe: Recipe, staging: RawColumns) -> None:
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
        for column in columns if history.source == "log" else ():
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


def _sql(text: str, frame: pl.LazyFrame, columns: list[str], raw: RawFile, what: str) -> pl.Expr:
    sql = expression(text, what)
    _require(raw, columns, sql.meta.root_names(), what)
    try:
        return alike_in_every_file(sql, frame)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{raw.path}, {what}: {text!r} cannot be worked out: {first_line(error)}") from None


def _condition(history: HistoryRecipe, frame: pl.LazyFrame, columns: list[str], raw: RawFile) -> pl.Expr:
    """Does a row become an event?"""
    assert history.where is not None
    what = f"behaviour {history.behaviour!r}"
    condition = _sql(history.where, frame, columns, raw, what)
    if frame.select(condition.alias("condition")).collect_schema()["condition"] != pl.Boolean:
        raise RecipeError(f"{raw.path}, {what}: where = {history.where!r} is no condition; compare with something")
    return condition.fill_null(False)


def _require(raw: RawFile, columns: list[str], needed: Iterable[str], why: str) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        raw.require(missing, why)


def _sink(sources: Sources, parts: list[RawColumns], name: str) -> StagedTable:
    path = sources.scratch / f"{name}.parquet"
    raws = [part.raw for part in parts]
    try:
        frame = pl.concat([part.finish() for part in parts], how="vertical_relaxed")
        frame.sink_parquet(path, compression="lz4", statistics=False)
        bad = pl.scan_parquet(path, glob=False).filter(pl.col(BAD) > 0).select(FILE, ROW, BAD, CELL).collect()
    except pl.exceptions.PolarsError as error:
        files = ", ".join(str(raw.path) for raw in raws)
        raise DataError(f"{files}: polars cannot read it: {first_line(error)}") from None
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    sources.bad.leave_out(bad, rows, raws, [part.checks for part in parts])
    if len(bad):
        kept = sources.scratch / f"{name}-kept.parquet"
        pl.scan_parquet(path, glob=False).filter(pl.col(BAD) == 0).sink_parquet(
            kept, compression="lz4", statistics=False
        )
        path.unlink()
        path = kept
    return StagedTable(path, rows - len(bad), raws, frozenset().union(*(part.numeric for part in parts)))

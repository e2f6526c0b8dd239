"""First pass over the raw files: check every row and write the columns a recipe uses to one scratch parquet file.

Everything after it reads single columns of that file, so memory holds a column or two, not the data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rectab.data.errors import DataError, RecipeError
from rectab.data.reading import INTEGERS, ROW, RawFile
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.sources import Sources

__all__ = ["Checks", "StagedTable", "number_column", "stage_events", "stage_prior", "stage_rows"]

_FILE, _BAD, _CELL = "__file", "__bad", "__cell"
LABEL, TIME, GROUP, SPLIT, PROBABILITY = "__label", "__time", "__group", "__split", "__probability"


def number_column(column: str) -> str:
    """Name of the staged float64 form of a column."""
    return f"__number:{column}"


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
    """

    path: Path
    rows: int
    raw: list[RawFile]

    def column(self, name: str) -> pl.Series:
        """[rows]: one staged column, read from the file."""
        return pl.scan_parquet(self.path, glob=False).select(name).collect().to_series()

    def place(self, row: int) -> str:
        """Where staged row ``row`` stands in the raw files."""
        at = pl.scan_parquet(self.path, glob=False).select(_FILE, ROW).slice(row, 1).collect().row(0)
        return self.raw[at[0]].place(at[1])


class Checks:
    """Cells that must hold for a row to be used; the first that fails is remembered with the row."""

    def __init__(self) -> None:
        self._checks: list[tuple[str, pl.Expr, str]] = []

    def add(self, column: str, bad: pl.Expr, problem: str) -> None:
        """Another check.

        Args:
            column: whose cell is shown.
            bad: true for a row that fails; null counts as true.
            problem: what to say of it.
        """
        self._checks.append((column, bad.fill_null(True), problem))

    def columns(self) -> list[pl.Expr]:
        """``__bad``: number of the first failed check (0 = none); ``__cell``: the offending text."""
        which, cell = pl.lit(0, pl.UInt16), pl.lit(None, pl.String)
        for number, (column, bad, _) in reversed(list(enumerate(self._checks, 1))):
            which = pl.when(bad).then(pl.lit(number, pl.UInt16)).otherwise(which)
            cell = pl.when(bad).then(pl.col(column).cast(pl.String)).otherwise(cell)
        return [which.alias(_BAD), cell.alias(_CELL)]

    def message(self, number: int, cell: str | None) -> str:
        """What to say of a row whose check ``number`` (from 1) failed at the text ``cell``."""
        column, _, problem = self._checks[number - 1]
        shown = "an empty cell" if cell is None else repr(cell[:80])
        return f"column {column!r}: {problem}, found {shown}"


def stage_rows(sources: Sources) -> StagedTable:
    """Check and stage the rows of every file of the recipe.

    Raises:
        DataError: naming file, column and row.
    """
    recipe, frames, raws = sources.recipe, [], []
    checks = Checks()
    for index, file in enumerate(recipe.files):
        raw = sources.open(file.path, file.format, file.sha256)
        raws.append(raw)
        frames.append(_staged_columns(sources, raw, index, file.split, checks if index == 0 else Checks()))
    return _sink(sources, pl.concat(frames, how="vertical_relaxed"), raws, checks, "rows")


def stage_events(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage the events file of one behaviour: ``__group``, ``__time`` and the sequences' columns."""
    assert history.path is not None
    recipe = sources.recipe
    group, time = history.group or recipe.group, history.time or recipe.time
    assert group is not None
    assert time is not None
    raw = sources.open(history.path, history.format, history.sha256)
    raw.require([group, time], f"of behaviour {history.behaviour!r}")
    frame, columns = sources.join(raw.frame, raw.columns)
    _require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    checks = Checks()
    if history.where is not None:
        frame = frame.filter(_sql(history.where, columns, raw, f"behaviour {history.behaviour!r}"))
    staged = [pl.lit(0, pl.UInt16).alias(_FILE), pl.col(ROW), *_keys(frame, group, time, checks)]
    staged += [_value(frame, column) for column in dict.fromkeys(s.column for s in history.sequences)]
    return _sink(sources, frame.select(*staged, *checks.columns()), [raw], checks, f"events-{history.behaviour}")


def stage_prior(sources: Sources, history: HistoryRecipe) -> StagedTable:
    """Stage a behaviour's events from before the log: ``__group`` and the sequences' columns, oldest first."""
    prior = history.prior
    assert prior is not None
    assert sources.recipe.group is not None
    raw = sources.open(prior.path, prior.format, prior.sha256)
    group = prior.group or sources.recipe.group
    raw.require([group, *prior.lists.values()], f"prior events of behaviour {history.behaviour!r}")
    lists = [pl.col(column).alias(name) for name, column in prior.lists.items()]
    frame = raw.frame.select(pl.col(ROW), pl.col(group).alias(GROUP), *lists)
    first = next(iter(prior.lists))
    frame = frame.filter(pl.col(first).list.len() > 0).explode(*prior.lists)
    frame, columns = sources.join(frame, [GROUP, *prior.lists])
    _require(raw, columns, [s.column for s in history.sequences], f"a sequence of behaviour {history.behaviour!r}")
    values = [_value(frame, column) for column in dict.fromkeys(s.column for s in history.sequences)]
    checks = Checks()
    checks.add(GROUP, pl.col(GROUP).is_null(), "the group must not be empty")
    staged = frame.select(pl.lit(0, pl.UInt16).alias(_FILE), ROW, GROUP, *values, *checks.columns())
    return _sink(sources, staged, [raw], checks, f"prior-{history.behaviour}")


def _staged_columns(sources: Sources, raw: RawFile, index: int, split: str | None, checks: Checks) -> pl.LazyFrame:
    recipe = sources.recipe
    raw.require([t.on for t in recipe.tables if t.on in _needed(recipe)], "the key of a side table")
    frame, columns = sources.join(raw.frame, raw.columns)
    for derived in recipe.derived:
        frame = frame.with_columns(
            _sql(derived.sql, columns, raw, f"derived column {derived.name!r}").alias(derived.name)
        )
        columns.append(derived.name)
    for column, why in _needed(recipe).items():
        _require(raw, columns, [column], why)
    staged: list[pl.Expr | str] = [pl.lit(index, pl.UInt16).alias(_FILE), ROW]
    staged.append(pl.lit(split or "").alias(SPLIT))
    staged += _keys(frame, recipe.group, recipe.time, checks)
    staged += _label(recipe, checks)
    staged += _inputs(frame, recipe, checks)
    for history in recipe.histories:
        if history.source == "log" and history.where is not None:
            condition = _sql(history.where, columns, raw, f"behaviour {history.behaviour!r}")
            staged.append(condition.fill_null(False).alias(condition_column(history.behaviour)))
    return frame.select(*staged, *checks.columns())


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


def _inputs(frame: pl.LazyFrame, recipe: Recipe, checks: Checks) -> list[pl.Expr]:
    """The features' and histories' columns: as they are for ids, as float64 for numbers."""
    staged: dict[str, pl.Expr] = {}
    for feature in recipe.features:
        if feature.type == "dense" or feature.bins is not None:
            name = number_column(feature.column)
            if name not in staged:
                staged[name] = _number(feature.column, checks).alias(name)
        else:
            staged[feature.column] = _value(frame, feature.column)
    for history in recipe.histories:
        for sequence in history.sequences:
            if history.source == "log":
                staged[sequence.column] = _value(frame, sequence.column)
            elif history.source == "list":
                staged[sequence.column] = _list(frame, sequence.column, history)
    if recipe.negatives is not None:
        staged.setdefault(recipe.negatives.item, _value(frame, recipe.negatives.item))
    if recipe.split.column is not None:
        staged.setdefault(recipe.split.column, pl.col(recipe.split.column))
    if recipe.probability is not None:
        staged[PROBABILITY] = _number(recipe.probability, checks).cast(pl.Float32).alias(PROBABILITY)
    return list(staged.values())


def _keys(frame: pl.LazyFrame, group: str | None, time: str | None, checks: Checks) -> list[pl.Expr]:
    keys = []
    if group is not None:
        checks.add(group, pl.col(group).is_null(), "the group must not be empty")
        keys.append(_value(frame, group).alias(GROUP))
    if time is not None:
        checks.add(time, pl.col(time).is_null(), "the time must not be empty")
        is_exact = frame.collect_schema()[time] in INTEGERS
        value = pl.col(time).cast(pl.Int64) if is_exact else _number(time, checks)
        keys.append(value.alias(TIME))
    return keys


def _label(recipe: Recipe, checks: Checks) -> list[pl.Expr]:
    if recipe.label is None:
        return []
    column = recipe.label.column
    number = pl.col(column).cast(pl.Float64, strict=False)
    if recipe.label.rating:
        checks.add(column, ~number.is_finite().fill_null(False), "a rating must be a finite number")
        return [number.cast(pl.Float32).alias(LABEL)]
    if recipe.label.at_least is not None:
        checks.add(column, number.is_null(), "the label needs a number")
        return [(number >= recipe.label.at_least).cast(pl.Float32).alias(LABEL)]
    checks.add(column, ~number.is_in([0.0, 1.0]), "the label must be 0 or 1")
    return [number.cast(pl.Float32).alias(LABEL)]


def _number(column: str, checks: Checks) -> pl.Expr:
    """A cell as float64; null stays null, anything that is no finite number fails the check."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    checks.add(column, pl.col(column).is_not_null() & ~number.is_finite().fill_null(False), "a number is needed")
    return number


def _value(frame: pl.LazyFrame, column: str) -> pl.Expr:
    """A cell as a value that can be compared and sorted: integers as they are, everything else as text."""
    dtype = frame.collect_schema()[column]
    if dtype in INTEGERS:
        return pl.col(column).cast(pl.Int64)
    if dtype.is_nested():
        raise RecipeError(f"column {column!r} holds lists; use it in a history with source = 'list'")
    return pl.col(column).cast(pl.String)


def _list(frame: pl.LazyFrame, column: str, history: HistoryRecipe) -> pl.Expr:
    dtype = frame.collect_schema()[column]
    if isinstance(dtype, pl.List):
        inner = pl.Int64 if dtype.inner in INTEGERS else pl.String
        value = pl.col(column).cast(pl.List(inner)).fill_null([])
    elif history.separator is None:
        raise RecipeError(f"behaviour {history.behaviour!r}: column {column!r} is text; say separator = '...'")
    else:
        empty = pl.col(column).is_null() | (pl.col(column) == "")
        split = pl.col(column).cast(pl.String).str.split(history.separator)
        value = pl.when(empty).then(pl.lit([], pl.List(pl.String))).otherwise(split).alias(column)
    return value.list.reverse() if history.newest_first else value


def _sql(text: str, columns: list[str], raw: RawFile, what: str) -> pl.Expr:
    try:
        expression = pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{what}: {text!r} is not an SQL expression polars understands: {error}") from None
    _require(raw, columns, expression.meta.root_names(), what)
    return expression


def _require(raw: RawFile, columns: list[str], needed: Iterable[str], why: str) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        raw.require(missing, why)


def _sink(sources: Sources, frame: pl.LazyFrame, raws: list[RawFile], checks: Checks, name: str) -> StagedTable:
    path = sources.scratch / f"{name}.parquet"
    try:
        frame.sink_parquet(path, compression="lz4", statistics=False)
        bad = pl.scan_parquet(path, glob=False).filter(pl.col(_BAD) > 0).select(_FILE, ROW, _BAD, _CELL).collect()
    except pl.exceptions.PolarsError as error:
        files = ", ".join(str(raw.path) for raw in raws)
        raise DataError(f"{files}: polars cannot read it: {error}") from None
    if len(bad):
        messages = [f"{raws[f].place(row)}, {checks.message(b, cell)}" for f, row, b, cell in bad.head(20).iter_rows()]
        if not sources.skip_bad:
            more = f" (and {len(bad) - 1:,} more such rows)" if len(bad) > 1 else ""
            raise DataError(f"{messages[0]}{more}; mend it, or leave such rows out with --bad-rows skip")
        sources.dropped += len(bad)
        sources.problems += messages
        kept = sources.scratch / f"{name}-kept.parquet"
        pl.scan_parquet(path, glob=False).filter(pl.col(_BAD) == 0).sink_parquet(
            kept, compression="lz4", statistics=False
        )
        path.unlink()
        path = kept
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    return StagedTable(path, rows, raws)

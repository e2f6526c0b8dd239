"""Raw rows to what a trained model reads: the pipeline of ``prepare``, given what it learned from training rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rectab.data.asked_rows import AskedRows, Located, locate
from rectab.data.assemble import Assembly
from rectab.data.checks import BadRows
from rectab.data.errors import DataError
from rectab.data.fitted import Fitted
from rectab.data.histories import EventOrder
from rectab.data.history_store import HistoryStore
from rectab.data.recipe import Recipe
from rectab.data.sources import Sources
from rectab.data.split import Split
from rectab.data.staging import stage_rows
from rectab.data.storage import SPLITS
from rectab.data.synthetic import generate, recipe_for
from rectab.schema import Feature, Schema

__all__ = ["RawInputs", "ServedRows"]


@dataclass(frozen=True)
class ServedRows:
    """Rows as a model reads them.

    Attributes:
        split: n rows, in memory, in the order of their files (of a split: in the data set's order); labels are NaN
            where they were not asked for.
        places: (file, row) [n]: where each stands in the raw files.
        dropped: bad rows that were left out.
        problems: what was wrong with the first of them.
    """

    split: Split
    places: pl.DataFrame
    dropped: int
    problems: list[str]


@dataclass(frozen=True)
class RawInputs:
    """How raw rows become the inputs of a trained model.

    Attributes:
        recipe: of the data set, as the user wrote it.
        schema: of the model, which may have left features of the recipe out.
        fitted: what was learned from the training rows.
        raw: folder of the raw files when the data set was prepared; None if it made its own.
        sources: the files that were read there: name -> SHA-256.
    """

    recipe: Recipe
    schema: Schema
    fitted: Fitted
    raw: Path | None
    sources: Mapping[str, str]

    def read(self, asked: AskedRows) -> ServedRows:
        """Read rows: served or refused as ``prepare`` would.

        Raises:
            DataError: rows, columns or files are not what the recipe says, naming file, column and row; or what is
                asked for does not go together.
        """
        with tempfile.TemporaryDirectory(prefix="rectab-") as scratch:
            located = self._located(asked, Path(scratch))
            bad = BadRows(skip=asked.skip_bad)
            sources = Sources(
                located.recipe, located.folder, Path(scratch), bad, located.frames, located.log, located.known
            )
            rows = stage_rows(sources)
            whole = asked.split is None
            assembly = Assembly(
                located.recipe, located.recipe, sources, rows, lambda line: None, self.fitted, whole=whole
            )
            assembly.run()
            number = 0 if asked.split is None else SPLITS.index(asked.split)
            split = _gathered(assembly, self.schema, number, asked.split or "rows")
            places = rows.places(assembly.chosen.splits[number].source)
            return ServedRows(split, places, bad.dropped, bad.problems)

    def _located(self, asked: AskedRows, scratch: Path) -> Located:
        """Where the rows lie; those that a recipe makes itself are made."""
        recipe, raw = self.recipe, self.raw
        if recipe.synthetic is not None:
            made = recipe_for(recipe)
            if asked.raw is None and (asked.rows is None or asked.events is None):
                raw = scratch / "raw"
                raw.mkdir()
                generate(recipe.synthetic, raw)
            recipe = made
        return locate(recipe, self.schema, asked, raw, self.sources)


def _gathered(assembly: Assembly, schema: Schema, number: int, name: str) -> Split:
    """One split of an assembly, in memory."""
    chosen = assembly.chosen.splits[number]
    categorical, dense = assembly.categorical(), assembly.dense()
    made = [f.name for f in categorical], [f.name for f in dense]
    if made != ([f.name for f in schema.categorical], list(schema.dense)):
        raise DataError("the recipe's features are not those of the model: its files are of different runs")
    rows_for = assembly.chosen.rows_for
    ids = [assembly.ids(f, rows_for(f.column, number)) for f in categorical]
    floats = [assembly.dense_column(f)[rows_for(f.column, number)] for f in dense]
    n = len(chosen.source)
    return Split(
        name=name,
        schema=schema,
        _ids=np.stack(ids, axis=1) if ids else np.empty((n, 0), np.int64),
        _dense=np.stack(floats, axis=1) if floats else np.empty((n, 0), np.float32),
        _labels=np.asarray(chosen.labels, np.float32),
        _groups=None if assembly.groups is None else assembly.groups.codes[chosen.source],
        _probability=None,
        _histories=tuple(
            _history(assembly, order, features, number)
            for order, features in zip(assembly.orders, schema.behaviours.values(), strict=True)
        ),
    )


def _history(assembly: Assembly, order: EventOrder, features: tuple[Feature, ...], number: int) -> HistoryStore:
    """The histories of a behaviour over the rows of a split: stored attributes, then context, as a schema has them."""
    context = assembly.context_store(order, number)
    stored = tuple(assembly.event_ids(order, sequence) for sequence in order.history.sequences)
    return HistoryStore(features, context.ranges, (*stored, *context.values), context.row_times)

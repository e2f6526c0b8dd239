"""From staged rows to decisions: which split, which events, which negatives, which id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from rectab.data.catalogue import Catalogue
from rectab.data.errors import DataError
from rectab.data.histories import EventOrder, Groups, build_history, event_codes, mark_seen
from rectab.data.item_columns import item_columns
from rectab.data.negatives import draw_negatives
from rectab.data.numbers import BinRule, DenseRule
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import FeatureRecipe
from rectab.data.roles import id_column, number_column
from rectab.data.sources import Sources
from rectab.data.splits import TRAIN, assign_splits, compared_by
from rectab.data.staging import GROUP, ITEM, LABEL, SPLIT, TIME, StagedTable
from rectab.data.storage import SPLITS, create_array
from rectab.data.vocabularies import Codes, FittedVocabulary, factorise, fit_ids
from rectab.waiting import result_of, worker_threads

__all__ = ["Assembly", "feature_key"]

_AT_A_TIME = 2  # vocabularies encoded side by side: as many columns are in memory


@dataclass
class _FinalRows:
    """The rows of one split.

    Attributes:
        source: int64 [m]: the staged row each comes from.
        item_source: int64 [m]: the staged row its item columns come from (another one for a negative).
        labels: float32 [m].
    """

    source: np.ndarray
    item_source: np.ndarray
    labels: np.ndarray


@dataclass
class _Encoded:
    """One vocabulary: its codes by column, and what they became."""

    codes: Codes
    fitted: FittedVocabulary
    hashed: bool


@dataclass
class Assembly:
    """One run of ``prepare`` after the rows are staged. :meth:`run` fills in what is empty at first.

    Attributes:
        recipe: as the user wrote it. made: the same, with a generator's options filled in.
        sources, rows: the raw folder and its n staged rows.
        tell: called with a line of text at every stage.
        groups: of the staged rows; None if the recipe has no group.
        orders: the events of every behaviour, in recipe order.
        final: the rows of train, valid and test, negatives included.
        catalogue: what negatives are drawn from; None if the recipe draws none.
        encoded: every vocabulary by name.
        rules: by feature name, how a number became a bin or a dense input.
    """

    recipe: Recipe
    made: Recipe
    sources: Sources
    rows: StagedTable
    tell: Callable[[str], None]
    groups: Groups | None = None
    orders: list[EventOrder] = field(default_factory=list)
    final: list[_FinalRows] = field(default_factory=list)
    catalogue: Catalogue | None = None
    encoded: dict[str, _Encoded] = field(default_factory=dict)
    rules: dict[str, BinRule | DenseRule] = field(default_factory=dict)

    def run(self) -> None:
        """Decide everything: groups, splits, histories, negatives, vocabularies.

        Raises:
            DataError: there are no rows, a split is left without any, or a column is empty in all rows.
        """
        if self.rows.rows == 0:
            files = ", ".join(file.place for file in self.made.files)
            raise DataError(f"{files}: no rows")
        if self.made.group is not None:
            self.groups = Groups.of(self.rows.column(GROUP))
        if self.made.histories:
            self.tell("ordering histories")
            self.orders = [build_history(h, self.rows, self.groups, self.sources) for h in self.made.histories]
        self.final = self._final_rows()
        self.tell("fitting vocabularies")
        self._fit_vocabularies()

    # rows

    def _final_rows(self) -> list[_FinalRows]:
        assigned = self._splits()
        kept = np.ones(self.rows.rows, bool)
        if self.made.min_history:
            kept = self.orders[0].ranges[:, 1] >= self.made.min_history
        final = []
        for number, name in enumerate(SPLITS):
            source = np.flatnonzero((assigned == number) & kept)
            if not len(source):
                raise DataError(f"no rows are left for {name!r}: change [split] or min_history in the recipe")
            final.append(source)
        if self.made.negatives is not None:
            return self._with_negatives(final)
        labels = self.rows.column(LABEL).to_numpy()
        return [_FinalRows(source, source, labels[source]) for source in final]

    def _splits(self) -> np.ndarray:
        times = None if self.made.time is None else self.rows.times(TIME, self.made.time)
        compared = compared_by(self.made.split, self.rows, times)
        group = None if self.groups is None else self.groups.codes
        time = None if times is None else times.keys()[0]
        return assign_splits(self.made.split, self.rows.column(SPLIT), time, compared, group)

    def _with_negatives(self, final: list[np.ndarray]) -> list[_FinalRows]:
        """Every positive row followed by its negatives."""
        negatives = self.made.negatives
        assert negatives is not None
        assert self.groups is not None
        self.tell("drawing negatives")
        positives = np.concatenate(final)
        self.catalogue = Catalogue.of(self.groups, self.rows.column(ITEM), final[TRAIN], negatives.draw)
        self.catalogue.check(self.groups, positives)
        drawn = draw_negatives(self.catalogue.candidates, self.groups.codes[positives], negatives.ratio, negatives.seed)
        item_source = np.concatenate([positives[:, None], self.catalogue.first_row[drawn]], axis=1)
        labels = np.zeros(item_source.shape, np.float32)
        labels[:, 0] = 1
        ends = np.cumsum([len(source) for source in final])[:-1]
        pieces = zip(final, np.split(item_source, ends), np.split(labels, ends), strict=True)
        return [_FinalRows(np.repeat(s, negatives.ratio + 1), i.ravel(), y.ravel()) for s, i, y in pieces]

    def rows_for(self, column: str, split: int) -> np.ndarray:
        """int64 [m]: the staged row that each of the split's m rows takes ``column`` from.

        Columns of the item are another row's where the row is a negative; all others are the row's own.

        Args:
            column: a raw column.
            split: 0 train, 1 valid, 2 test.
        """
        return self.final[split].item_source if self.is_item(column) else self.final[split].source

    @property
    def redrawn(self) -> Catalogue | None:
        """What every epoch of training draws its negatives from; None where they stay."""
        negatives = self.made.negatives
        return self.catalogue if negatives is not None and negatives.redraw == "epoch" else None

    def is_item(self, column: str) -> bool:
        """Does the column change with the item of a negative?"""
        return column in self._item_columns

    @cached_property
    def _item_columns(self) -> frozenset[str]:
        return item_columns(self.made)

    # vocabularies

    def _vocabulary_names(self) -> list[str]:
        names = [f.vocabulary for f in self.categorical()]
        names += [s.vocabulary for h in self.made.histories for s in h.sequences if s.vocabulary is not None]
        return list(dict.fromkeys(names))

    def categorical(self) -> list[FeatureRecipe]:
        """The F categorical features, in recipe order."""
        return [f for f in self.made.features if f.type == "categorical"]

    def dense(self) -> list[FeatureRecipe]:
        """The N dense features, in recipe order."""
        return [f for f in self.made.features if f.type == "dense"]

    def vocabulary_of(self, target: str | None, vocabulary: str | None) -> str:
        """The vocabulary that a sequence draws from: its own, or that of the categorical feature ``target``."""
        if vocabulary is not None:
            return vocabulary
        return next(f.vocabulary for f in self.categorical() if f.name == target)

    def _sequences(self, vocabulary: str) -> list[tuple[EventOrder, str]]:
        """(behaviour's events, column) of every sequence that draws from the vocabulary."""
        return [
            (order, sequence.column)
            for order in self.orders
            for sequence in order.history.sequences
            if self.vocabulary_of(sequence.target, sequence.vocabulary) == vocabulary
        ]

    def _fit_vocabularies(self) -> None:
        """Encode the vocabularies, a few at a time: much of it runs on one thread each, in numba and numpy."""
        names = self._vocabulary_names()
        loaders = [self._loaders(name) for name in names]
        with worker_threads(_AT_A_TIME) as pool:
            jobs = [pool.submit(self._encode, *job) for job in zip(names, loaders, range(len(names)), strict=True)]
            self.encoded = {name: result_of(job) for name, job in zip(names, jobs, strict=True)}

    def _loaders(self, name: str) -> dict[str, Callable[[], pl.Series]]:
        """What loads each column of a vocabulary, by key; fits the bins of its features."""
        loaders = {feature_key(f): self._loader(f) for f in self._features(name)}
        for order, column in self._sequences(name):
            for piece, table, _ in order.pieces:
                loaders.setdefault(f"{piece}/{column}", self._event_loader(piece, table, column))
        return loaders

    def _features(self, vocabulary: str) -> list[FeatureRecipe]:
        return [f for f in self.categorical() if f.vocabulary == vocabulary]

    def _encode(self, name: str, loaders: dict[str, Callable[[], pl.Series]], index: int) -> _Encoded:
        features = self._features(name)
        codes = factorise(loaders, self.sources.scratch, str(index))
        row_counts = np.zeros(len(codes.values), np.int64)
        for feature in features:
            self._check_not_empty(feature, codes)
            training = codes.arrays[feature_key(feature)][self.rows_for(feature.column, TRAIN)]
            row_counts += np.bincount(training, minlength=len(codes.values))
            if self.redrawn is not None and self.is_item(feature.column):  # what an epoch may draw is of training
                drawable = codes.arrays[feature_key(feature)][self.redrawn.drawable()]
                row_counts[drawable] = np.maximum(row_counts[drawable], 1)
        event_counts = np.zeros(len(codes.values), np.int64)
        for order, column in self._sequences(name):
            seen = mark_seen(order.cut()[self.final[TRAIN].source], len(order.order))
            event_counts += np.bincount(event_codes(order, column, codes)[seen], minlength=len(codes.values))
        hashed = any(f.hashed for f in features)
        min_count = max((f.min_count for f in features), default=1)
        return _Encoded(codes, fit_ids(codes.values, row_counts, event_counts, min_count, hashed), hashed)

    def _loader(self, feature: FeatureRecipe) -> Callable[[], pl.Series]:
        if feature.bins is None:
            return lambda: self.rows.column(id_column(feature.column))
        numbers = self._numbers(feature)
        rule = BinRule.fit(feature, numbers[self.rows_for(feature.column, TRAIN)])
        self.rules[feature.name] = rule
        return lambda: rule.apply(self._numbers(feature))

    def _event_loader(self, piece: str, table: StagedTable | None, column: str) -> Callable[[], pl.Series]:
        source = table or self.rows
        if piece.startswith("list:"):
            return lambda: _flatten(source.column(id_column(column)))
        return lambda: source.column(id_column(column))

    def _numbers(self, feature: FeatureRecipe) -> np.ndarray:
        return self.rows.column(number_column(feature.column)).fill_null(float("nan")).to_numpy()

    def _check_not_empty(self, feature: FeatureRecipe, codes: Codes) -> None:
        array = codes.arrays[feature_key(feature)]
        if codes.values[0] is None and not np.any(array):
            raise DataError(_all_empty(self.rows, feature))

    def dense_column(self, feature: FeatureRecipe) -> np.ndarray:
        """float32 [n], memory-mapped: a dense feature of every staged row, by a rule fitted on the training rows.

        Raises:
            DataError: the column is empty in all rows.
        """
        numbers = self._numbers(feature)
        if np.isnan(numbers).all():
            raise DataError(_all_empty(self.rows, feature))
        rule = DenseRule.fit(feature, numbers[self.rows_for(feature.column, TRAIN)])
        self.rules[feature.name] = rule
        dense = rule.apply(numbers)
        if (wrong := np.flatnonzero(~np.isfinite(dense))).size:
            raise DataError(
                f"{self.rows.place(int(wrong[0]))}, column {feature.column!r}: {feature.transform} takes "
                f"{numbers[wrong[0]]:g} beyond float32; give feature {feature.name!r} another transform"
            )
        path = self.sources.scratch / f"dense-{len(self.rules)}.npy"
        create_array(path, np.float32, numbers.shape)[...] = dense
        return np.load(path, mmap_mode="r")


def feature_key(feature: FeatureRecipe) -> str:
    """Under which key a vocabulary's codes hold this feature's: by column, or by feature where a number is binned."""
    return f"rows/{feature.column}" if feature.bins is None else f"bins/{feature.name}"


def _flatten(lists: pl.Series) -> pl.Series:
    return lists.filter(lists.list.len() > 0).explode()


def _all_empty(rows: StagedTable, feature: FeatureRecipe) -> str:
    files = ", ".join(str(raw.path) for raw in rows.raw)
    return f"{files}, column {feature.column!r}: empty in all {rows.rows:,} rows; leave feature {feature.name!r} out"

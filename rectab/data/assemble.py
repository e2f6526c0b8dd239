"""From staged rows to decisions: which events, which rows of which split, which id.

What is learned from training rows (vocabularies, bins, scales) is fitted to the rows at hand or, where new rows are to
be served, given: fitting and applying are one pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl

from rectab.data.chosen import ChosenRows, every_row, rows_of_splits
from rectab.data.errors import DataError
from rectab.data.fitted import Fitted
from rectab.data.histories import EventOrder, Groups, build_history, event_codes, mark_seen
from rectab.data.history_store import HistoryStore
from rectab.data.numbers import BinRule, DenseRule
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import FeatureRecipe, HistoryRecipe, SequenceRecipe
from rectab.data.roles import id_column, number_column
from rectab.data.sources import Sources
from rectab.data.splits import TRAIN
from rectab.data.staged import GROUP, StagedTable
from rectab.data.storage import create_array
from rectab.data.vocabularies import Codes, FittedVocabulary, factorise, fit_ids
from rectab.schema import Feature
from rectab.waiting import result_of, worker_threads

__all__ = ["Assembly", "context_features", "feature_key"]

RuleT = TypeVar("RuleT", BinRule, DenseRule)
_AT_A_TIME = 2  # vocabularies encoded side by side: as many columns are in memory


@dataclass
class Encoded:
    """One vocabulary.

    Attributes:
        codes: of every column that draws from it.
        id_of_code: int64 [number of codes].
        hashed: ids are hashes.
        fitted: what was learned of the training rows; None where it is given.
    """

    codes: Codes
    id_of_code: np.ndarray
    hashed: bool
    fitted: FittedVocabulary | None = None

    def of_training(self) -> FittedVocabulary:
        """What was learned of the training rows, where it was."""
        assert self.fitted is not None
        return self.fitted


@dataclass
class Assembly:
    """One run of ``prepare``, or one reading of rows to be served, after the rows are staged.

    :meth:`run` fills in what is empty at first.

    Attributes:
        recipe: as the user wrote it. made: the same, with a generator's options filled in.
        sources, rows: the raw folder and its n staged rows.
        tell: called with a line of text at every stage.
        given: what other rows were fitted to; None: it is fitted to the training rows at hand.
        whole: all rows are one split, and no negatives are drawn.
        groups: of the staged rows; None if the recipe has no group.
        orders: the events of every behaviour, in recipe order.
        chosen: the rows of every split.
        encoded: every vocabulary by name.
        rules: by feature name, how a number became a bin or a dense input.
    """

    recipe: Recipe
    made: Recipe
    sources: Sources
    rows: StagedTable
    tell: Callable[[str], None]
    given: Fitted | None = None
    whole: bool = False
    groups: Groups | None = None
    orders: list[EventOrder] = field(default_factory=list)
    chosen: ChosenRows = field(init=False)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    rules: dict[str, BinRule | DenseRule] = field(default_factory=dict)

    def run(self) -> None:
        """Decide everything: groups, splits, histories, negatives, vocabularies.

        Raises:
            DataError: there are no rows, a split is left without any, or a column is empty in all training rows.
        """
        if self.rows.rows == 0:
            files = ", ".join(file.place for file in self.made.files)
            raise DataError(f"{files}: no rows")
        if self.made.group is not None:
            self.groups = Groups.of(self.rows.column(GROUP))
        if self.made.histories:
            self.tell("ordering histories")
            self.orders = [build_history(h, self.rows, self.groups, self.sources) for h in self.made.histories]
        if self.whole:
            self.chosen = every_row(self.made, self.rows, self.orders)
        else:
            self.chosen = rows_of_splits(self.made, self.rows, self.groups, self.orders, self.tell)
        self.tell("fitting vocabularies" if self.given is None else "looking values up")
        self._encode_vocabularies()

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

    def _encode_vocabularies(self) -> None:
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

    def _encode(self, name: str, loaders: dict[str, Callable[[], pl.Series]], index: int) -> Encoded:
        codes = factorise(loaders, self.sources.scratch, str(index))
        hashed = any(f.hashed for f in self._features(name))
        if self.given is not None:
            return Encoded(codes, self.given.ids_of(name, codes.values, hashed), hashed)
        fitted = self._fit(name, codes, hashed)
        return Encoded(codes, fitted.id_of_code, hashed, fitted)

    def _fit(self, name: str, codes: Codes, hashed: bool) -> FittedVocabulary:
        """Number the values of a vocabulary by how often the training rows have them."""
        features, redrawn = self._features(name), self.chosen.redrawn
        row_counts = np.zeros(len(codes.values), np.int64)
        for feature in features:
            self._check_not_empty(feature, codes)
            training = codes.arrays[feature_key(feature)][self.chosen.rows_for(feature.column, TRAIN)]
            row_counts += np.bincount(training, minlength=len(codes.values))
            if redrawn is not None and self.chosen.is_item(feature.column):  # what an epoch may draw is of training
                drawable = codes.arrays[feature_key(feature)][redrawn.drawable()]
                row_counts[drawable] = np.maximum(row_counts[drawable], 1)
        event_counts = np.zeros(len(codes.values), np.int64)
        for order, column in self._sequences(name):
            seen = mark_seen(order.cut()[self.chosen.splits[TRAIN].source], len(order.order))
            event_counts += np.bincount(event_codes(order, column, codes)[seen], minlength=len(codes.values))
        min_count = max((f.min_count for f in features), default=1)
        return fit_ids(codes.values, row_counts, event_counts, min_count, hashed)

    def _loader(self, feature: FeatureRecipe) -> Callable[[], pl.Series]:
        if feature.bins is None:
            return lambda: self.rows.column(id_column(feature.column))
        rule = self._rule(feature, self._numbers(feature), BinRule)
        return lambda: rule.apply(self._numbers(feature))

    def _rule(self, feature: FeatureRecipe, numbers: np.ndarray, kind: type[RuleT]) -> RuleT:
        """The rule of a feature: what was given, or fitted to the training rows."""
        if self.given is None:
            rule = kind.fit(feature, numbers[self.chosen.rows_for(feature.column, TRAIN)])
        else:
            found = self.given.rules[feature.name]
            assert isinstance(found, kind)
            rule = found
        self.rules[feature.name] = rule
        return rule

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
        """float32 [n], memory-mapped: a dense feature of every staged row.

        Raises:
            DataError: a number is beyond float32 once it is transformed or, if its rule is to be fitted, the column is
                empty in all rows.
        """
        numbers = self._numbers(feature)
        if self.given is None and np.isnan(numbers).all():
            raise DataError(_all_empty(self.rows, feature))
        dense = self._rule(feature, numbers, DenseRule).apply(numbers)
        if (wrong := np.flatnonzero(~np.isfinite(dense))).size:
            raise DataError(
                f"{self.rows.place(int(wrong[0]))}, column {feature.column!r}: {feature.transform} takes "
                f"{numbers[wrong[0]]:g} beyond float32; give feature {feature.name!r} another transform"
            )
        path = self.sources.scratch / f"dense-{len(self.rules)}.npy"
        create_array(path, np.float32, numbers.shape)[...] = dense
        return np.load(path, mmap_mode="r")

    # what rows and events are to a model

    def ids(self, feature: FeatureRecipe, rows: np.ndarray) -> np.ndarray:
        """int64 [m]: the feature's ids of staged rows (int64 [m])."""
        encoded = self.encoded[feature.vocabulary]
        return encoded.id_of_code[encoded.codes.arrays[feature_key(feature)][rows]]

    def event_ids(self, order: EventOrder, sequence: SequenceRecipe) -> np.ndarray:
        """int64 [E]: ids of the events in stored order."""
        encoded = self.encoded[self.vocabulary_of(sequence.target, sequence.vocabulary)]
        return encoded.id_of_code[event_codes(order, sequence.column, encoded.codes)]

    def context_store(self, order: EventOrder, split: int) -> HistoryStore:
        """The context features of a behaviour, over the rows of a split."""
        source = self.chosen.splits[split].source
        features = context_features(order.history)
        values = tuple(order.times if f.context == "time_gap" else None for f in features)
        row_times = None if order.row_times is None else order.row_times[source]
        return HistoryStore(features, order.cut()[source], values, row_times)


def context_features(history: HistoryRecipe) -> tuple[Feature, ...]:
    """What the schema says of a behaviour's context; each has a vocabulary of its own."""
    return tuple(
        Feature(c.name, c.name, "sequence", history.behaviour, context=c.of, edges=c.edges) for c in history.context
    )


def feature_key(feature: FeatureRecipe) -> str:
    """Under which key a vocabulary's codes hold this feature's: by column, or by feature where a number is binned."""
    return f"rows/{feature.column}" if feature.bins is None else f"bins/{feature.name}"


def _flatten(lists: pl.Series) -> pl.Series:
    return lists.filter(lists.list.len() > 0).explode()


def _all_empty(rows: StagedTable, feature: FeatureRecipe) -> str:
    files = ", ".join(str(raw.path) for raw in rows.raw)
    return f"{files}, column {feature.column!r}: empty in all {rows.rows:,} rows; leave feature {feature.name!r} out"

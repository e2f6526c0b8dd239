"""From staged rows to the arrays of a prepared folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch

from rectab.data.errors import DataError
from rectab.data.histories import EventOrder, Groups, build_history, mark_seen
from rectab.data.negatives import draw_negatives
from rectab.data.numbers import BinRule, DenseRule
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import FeatureRecipe
from rectab.data.splits import TRAIN, assign_splits
from rectab.data.staging import GROUP, LABEL, PROBABILITY, SPLIT, TIME, Sources, StagedTable, number_column
from rectab.data.storage import SPLITS, ArrayWriter
from rectab.data.vocabularies import Codes, FittedVocabulary, factorise, fit_ids
from rectab.schema import Feature, Schema, Vocabulary

__all__ = ["Assembly"]

_CHUNK_ROWS = 1 << 18


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
    """One run of ``prepare`` after the rows are staged.

    Attributes:
        recipe: as the user wrote it. made: the same, with a generator's options filled in.
        sources, rows: the raw folder and its staged rows.
        writer: of the output folder.
        tell: called with a line of text at every stage.
    """

    recipe: Recipe
    made: Recipe
    sources: Sources
    rows: StagedTable
    writer: ArrayWriter
    tell: Callable[[str], None]
    groups: Groups | None = None
    orders: list[EventOrder] = field(default_factory=list)
    final: list[_FinalRows] = field(default_factory=list)
    encoded: dict[str, _Encoded] = field(default_factory=dict)
    rules: dict[str, BinRule | DenseRule] = field(default_factory=dict)

    def run(self) -> None:
        """Do everything; the last file written is ``schema.json``."""
        if self.rows.rows == 0:
            files = ", ".join(file.path for file in self.made.files)
            raise DataError(f"{files}: no rows")
        if self.made.group is not None:
            self.groups = Groups.of(self.rows.column(GROUP))
        if self.made.histories:
            self.tell("ordering histories")
            self.orders = [build_history(h, self.rows, self.groups, self.sources) for h in self.made.histories]
        self.final = self._final_rows()
        self.tell("fitting vocabularies")
        for name in self._vocabulary_names():
            self.encoded[name] = self._encode(name)
        schema = self._schema()
        self.tell("writing arrays")
        self._write_vocabularies()
        histories = self._write_histories()
        columns, dense = self._write_rows(schema)
        self._finish(schema, columns, dense, histories)

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
        split = self.made.split
        time = self.rows.column(TIME) if self.made.time is not None else None
        column = self.rows.column(split.column) if split.column is not None else time
        names = self.rows.column(SPLIT)
        group = None if self.groups is None else self.groups.codes
        return assign_splits(split, names, None if time is None else time.to_numpy(), column, group)

    def _with_negatives(self, final: list[np.ndarray]) -> list[_FinalRows]:
        """Every positive row followed by its negatives."""
        negatives = self.made.negatives
        assert negatives is not None
        assert self.groups is not None
        self.tell("drawing negatives")
        items = Groups.of(self.rows.column(negatives.item)).codes
        _, first_row = np.unique(items, return_index=True)
        positives = np.concatenate(final)
        drawn = draw_negatives(self.groups.codes, items, positives, negatives.ratio, negatives.seed)
        item_source = np.concatenate([positives[:, None], first_row[drawn]], axis=1)
        labels = np.zeros(item_source.shape, np.float32)
        labels[:, 0] = 1
        ends = np.cumsum([len(source) for source in final])[:-1]
        pieces = zip(final, np.split(item_source, ends), np.split(labels, ends), strict=True)
        return [_FinalRows(np.repeat(s, negatives.ratio + 1), i.ravel(), y.ravel()) for s, i, y in pieces]

    def _rows_for(self, column: str, split: int) -> np.ndarray:
        negatives = self.made.negatives
        is_item = negatives is not None and column in (negatives.item, *negatives.item_columns)
        return self.final[split].item_source if is_item else self.final[split].source

    # vocabularies

    def _vocabulary_names(self) -> list[str]:
        names = [f.vocabulary for f in self._categorical()]
        names += [s.vocabulary for h in self.made.histories for s in h.sequences if s.vocabulary is not None]
        return list(dict.fromkeys(names))

    def _categorical(self) -> list[FeatureRecipe]:
        return [f for f in self.made.features if f.type == "categorical"]

    def _dense(self) -> list[FeatureRecipe]:
        return [f for f in self.made.features if f.type == "dense"]

    def _vocabulary_of(self, target: str | None, vocabulary: str | None) -> str:
        if vocabulary is not None:
            return vocabulary
        return next(f.vocabulary for f in self._categorical() if f.name == target)

    def _sequences(self, vocabulary: str) -> list[tuple[EventOrder, str]]:
        """(behaviour's events, column) of every sequence that draws from the vocabulary."""
        return [
            (order, sequence.column)
            for order in self.orders
            for sequence in order.history.sequences
            if self._vocabulary_of(sequence.target, sequence.vocabulary) == vocabulary
        ]

    def _encode(self, name: str) -> _Encoded:
        features = [f for f in self._categorical() if f.vocabulary == name]
        loaders: dict[str, Callable[[], pl.Series]] = {_feature_key(f): self._loader(f) for f in features}
        for order, column in self._sequences(name):
            for piece, table, _ in order.pieces:
                loaders.setdefault(f"{piece}/{column}", self._event_loader(piece, table, column))
        index = len(self.encoded)
        codes = factorise(loaders, self.sources.scratch, str(index))
        row_counts = np.zeros(len(codes.values), np.int64)
        for feature in features:
            self._check_not_empty(feature, codes)
            training = codes.arrays[_feature_key(feature)][self._rows_for(feature.column, TRAIN)]
            row_counts += np.bincount(training, minlength=len(codes.values))
        event_counts = np.zeros(len(codes.values), np.int64)
        for order, column in self._sequences(name):
            seen = mark_seen(order.cut()[self.final[TRAIN].source], len(order.order))
            event_counts += np.bincount(_event_codes(order, column, codes)[seen], minlength=len(codes.values))
        hashed = any(f.hashed for f in features)
        min_count = max((f.min_count for f in features), default=1)
        return _Encoded(codes, fit_ids(codes.values, row_counts, event_counts, min_count, hashed), hashed)

    def _loader(self, feature: FeatureRecipe) -> Callable[[], pl.Series]:
        if feature.bins is None:
            return lambda: self.rows.column(feature.column)
        numbers = self._numbers(feature)
        rule = BinRule.fit(feature, numbers[self._rows_for(feature.column, TRAIN)])
        self.rules[feature.name] = rule
        return lambda: rule.apply(self._numbers(feature))

    def _event_loader(self, piece: str, table: StagedTable | None, column: str) -> Callable[[], pl.Series]:
        source = table or self.rows
        if piece.startswith("list:"):
            return lambda: _flatten(source.column(column))
        return lambda: source.column(column)

    def _numbers(self, feature: FeatureRecipe) -> np.ndarray:
        return self.rows.column(number_column(feature.column)).fill_null(float("nan")).to_numpy()

    def _check_not_empty(self, feature: FeatureRecipe, codes: Codes) -> None:
        array = codes.arrays[_feature_key(feature)]
        if codes.values[0] is None and not np.any(array):
            raise DataError(_all_empty(self.rows, feature))

    def _schema(self) -> Schema:
        vocabularies = []
        for name, encoded in self.encoded.items():
            fitted = encoded.fitted
            vocabularies.append(Vocabulary(name, len(fitted.counts), encoded.hashed, fitted.counts, fitted.ids))
        features = [Feature(f.name, f.vocabulary) for f in self._categorical()]
        for history in self.made.histories:
            for s in history.sequences:
                vocabulary = self._vocabulary_of(s.target, s.vocabulary)
                features.append(Feature(s.name, vocabulary, "sequence", history.behaviour, s.target))
        largest = max(self._categorical(), key=lambda f: len(self.encoded[f.vocabulary].fitted.counts), default=None)
        default = self.made.negatives.item if self.made.negatives is not None else None
        by_column = [f.name for f in self._categorical() if f.column == default]
        return Schema(
            vocabularies=tuple(vocabularies),
            features=tuple(features),
            dense=tuple(f.name for f in self._dense()),
            label=self.made.label.column if self.made.label is not None else "label",
            group=self.made.group,
            slice_by=self.made.slice_by or next(iter(by_column), largest.name if largest else None),
        )

    # writing

    def _write_vocabularies(self) -> None:
        for index, encoded in enumerate(self.encoded.values()):
            self.writer.save(f"vocabularies/{index}_counts.npy", encoded.fitted.counts)
            if encoded.fitted.ids is not None:
                self.writer.save(f"vocabularies/{index}_ids.npy", encoded.fitted.ids)
            encoded.fitted.values.write_parquet(self.writer.folder / f"vocabularies/{index}_values.parquet")

    def _write_histories(self) -> list[dict[str, Any]]:
        described = []
        for b, order in enumerate(self.orders):
            for s, sequence in enumerate(order.history.sequences):
                encoded = self.encoded[self._vocabulary_of(sequence.target, sequence.vocabulary)]
                ids = encoded.fitted.id_of_code[_event_codes(order, sequence.column, encoded.codes)]
                self.writer.save(f"histories/{b}_{s}.npy", ids if encoded.hashed else ids.astype(np.int32))
            ranges = order.cut()
            chosen = [ranges[rows.source] for rows in self.final]
            for name, part in zip(SPLITS, chosen, strict=True):
                self.writer.save(f"{name}/history_{b}.npy", part)
            lengths = np.concatenate([part[:, 1] for part in chosen])
            described.append(
                {
                    "behaviour": order.history.behaviour,
                    "events": len(order.order),
                    "mean_length": float(lengths.mean()),
                    "longest": int(lengths.max()),
                    "empty": {n: float((p[:, 1] == 0).mean()) for n, p in zip(SPLITS, chosen, strict=True)},
                }
            )
        return described

    def _write_rows(self, schema: Schema) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """Write ids, dense, labels, groups and probability of every split; returns what to say about the columns."""
        dense = [self._dense_column(f) for f in self._dense()]
        narrow = not any(e.hashed for e in self.encoded.values()) and all(
            v.num_embeddings < 2**31 for v in schema.vocabularies
        )
        columns = [self._describe(f) for f in self._categorical()]
        for split, name in enumerate(SPLITS):
            rows = self.final[split]
            n = len(rows.labels)
            ids = self.writer.create(f"{name}/ids.npy", np.int32 if narrow else np.int64, (n, len(columns)))
            floats = self.writer.create(f"{name}/dense.npy", np.float32, (n, len(dense)))
            for start in range(0, n, _CHUNK_ROWS):
                chunk = slice(start, start + _CHUNK_ROWS)
                ids[chunk] = self._id_block(split, chunk, columns, ids.dtype)
                for j, column in enumerate(dense):
                    floats[chunk, j] = column[rows.source[chunk]]
            for column in columns:
                column["unseen"][name] = column["unseen"].get(name, 0) / n
            self.writer.save(f"{name}/labels.npy", rows.labels.astype(np.float32))
            if self.groups is not None:
                self.writer.save(f"{name}/groups.npy", self.groups.codes[rows.source])
            if self.made.probability is not None:
                self.writer.save(f"{name}/probability.npy", self.rows.column(PROBABILITY).to_numpy()[rows.source])
        return columns, dense

    def _id_block(self, split: int, chunk: slice, columns: list[dict[str, Any]], dtype: Any) -> np.ndarray:
        """The ids of some rows, [m, F]; counts the unseen ones into ``columns`` on the way."""
        block = np.empty((len(self.final[split].labels[chunk]), len(columns)), dtype)
        for j, feature in enumerate(self._categorical()):
            encoded = self.encoded[feature.vocabulary]
            codes = encoded.codes.arrays[_feature_key(feature)][self._rows_for(feature.column, split)[chunk]]
            ids = encoded.fitted.id_of_code[codes]
            block[:, j] = ids
            known = encoded.fitted.ids
            unseen = ids == 0 if known is None else known[np.searchsorted(known, ids).clip(0, len(known) - 1)] != ids
            counted = columns[j]["unseen"]
            counted[SPLITS[split]] = counted.get(SPLITS[split], 0) + int(unseen.sum())
        return block

    def _dense_column(self, feature: FeatureRecipe) -> np.ndarray:
        numbers = self._numbers(feature)
        if np.isnan(numbers).all():
            raise DataError(_all_empty(self.rows, feature))
        rule = DenseRule.fit(feature, numbers[self._rows_for(feature.column, TRAIN)])
        self.rules[feature.name] = rule
        path = self.sources.scratch / f"dense-{len(self.rules)}.npy"
        np.save(path, rule.apply(numbers))
        return np.load(path, mmap_mode="r")

    def _describe(self, feature: FeatureRecipe) -> dict[str, Any]:
        cardinality = len(self.encoded[feature.vocabulary].fitted.counts)
        return {
            "name": feature.name,
            "vocabulary": feature.vocabulary,
            "hashed": feature.hashed,
            "cardinality": cardinality,
            "unseen": {},
        }

    def _finish(
        self, schema: Schema, columns: list[dict[str, Any]], dense: list[np.ndarray], histories: list[dict[str, Any]]
    ) -> None:
        splits = {name: self._split_facts(split) for split, name in enumerate(SPLITS)}
        problems = self.sources.problems
        inputs = [
            {
                "name": f.name,
                "column": f.column,
                "type": f.type,
                "rule": self.rules[f.name].to_json() if f.name in self.rules else None,
            }
            for f in self.made.features
        ]
        self.writer.finish(
            {
                "name": self.recipe.name,
                "schema": schema.to_json(),
                "splits": splits,
                "summary": {
                    "description": self.recipe.description,
                    "splits": splits,
                    "columns": columns,
                    "dense": list(schema.dense),
                    "histories": histories,
                    "dropped": {"rows": self.sources.dropped, "first": problems[:20]},
                },
                "inputs": inputs,
                "recipe": self.recipe.model_dump(mode="json", exclude_defaults=True),
                "sources": [] if self.recipe.synthetic is not None else self.sources.checksums,
            }
        )

    def _split_facts(self, split: int) -> dict[str, Any]:
        rows = self.final[split]
        facts: dict[str, Any] = {"rows": len(rows.labels), "positive_rate": float(rows.labels.mean(dtype=np.float64))}
        if self.made.probability is not None:
            from torchmetrics.functional.classification import binary_auroc

            probability = torch.from_numpy(self.rows.column(PROBABILITY).to_numpy()[rows.source])
            facts["best_auc"] = float(binary_auroc(probability, torch.from_numpy(rows.labels).long()))
        return facts


def _feature_key(feature: FeatureRecipe) -> str:
    return f"rows/{feature.column}" if feature.bins is None else f"bins/{feature.name}"


def _event_codes(order: EventOrder, column: str, codes: Codes) -> np.ndarray:
    """int32 [E]: codes of the events in stored order."""
    pieces = []
    for piece, _, chosen in order.pieces:
        array = codes.arrays[f"{piece}/{column}"]
        pieces.append(np.asarray(array) if chosen is None else array[chosen])
    return np.concatenate(pieces)[order.order]


def _flatten(lists: pl.Series) -> pl.Series:
    return lists.filter(lists.list.len() > 0).explode()


def _all_empty(rows: StagedTable, feature: FeatureRecipe) -> str:
    files = ", ".join(str(raw.path) for raw in rows.raw)
    return f"{files}, column {feature.column!r}: empty in all {rows.rows:,} rows; leave feature {feature.name!r} out"

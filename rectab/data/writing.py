"""Writes what an :class:`~rectab.data.assemble.Assembly` decided as memory-mapped arrays and ``schema.json``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rectab.data.assemble import Assembly, context_features
from rectab.data.context import bucket_names
from rectab.data.recipe_parts import FeatureRecipe
from rectab.data.splits import TRAIN
from rectab.data.staged import PROBABILITY
from rectab.data.storage import SPLITS, ArrayWriter
from rectab.metrics import auc
from rectab.schema import Feature, Schema, Vocabulary

__all__ = ["DatasetWriter"]

_CHUNK_ROWS = 1 << 18


@dataclass
class DatasetWriter:
    """Writes one data set.

    Attributes:
        data: what to write.
        writer: of the output folder.
    """

    data: Assembly
    writer: ArrayWriter

    def run(self) -> None:
        """Write everything; the last file is ``schema.json``."""
        schema = self._schema()
        self._write_vocabularies(schema)
        histories = self._write_histories()
        columns = self._write_rows(schema)
        self._finish(schema, columns, histories, self._write_negatives())

    def _schema(self) -> Schema:
        vocabularies = []
        for name, encoded in self.data.encoded.items():
            fitted = encoded.of_training()
            vocabularies.append(Vocabulary(name, len(fitted.counts), encoded.hashed, fitted.counts, fitted.ids))
        features = [Feature(f.name, f.vocabulary) for f in self.data.categorical()]
        for history in self.data.made.histories:
            for s in history.sequences:
                vocabulary = self.data.vocabulary_of(s.target, s.vocabulary)
                features.append(Feature(s.name, vocabulary, "sequence", history.behaviour, s.target))
            features += context_features(history)
        training = np.arange(len(self.data.chosen.splits[TRAIN].source))
        for order in self.data.orders:
            counted = self.data.context_store(order, TRAIN).context_counts(training, None)
            vocabularies += [Vocabulary(name, len(counts), counts=counts) for name, counts in counted.items()]
        sizes = {f: len(self.data.encoded[f.vocabulary].of_training().counts) for f in self.data.categorical()}
        largest = max(sizes, key=sizes.__getitem__, default=None)
        default = self.data.made.negatives.item if self.data.made.negatives is not None else None
        by_column = [f.name for f in self.data.categorical() if f.column == default]
        return Schema(
            vocabularies=tuple(vocabularies),
            features=tuple(features),
            dense=tuple(f.name for f in self.data.dense()),
            label=self.data.made.label.column if self.data.made.label is not None else "label",
            group=self.data.made.group,
            slice_by=self.data.made.slice_by or next(iter(by_column), largest.name if largest else None),
        )

    def _write_vocabularies(self, schema: Schema) -> None:
        for index, encoded in enumerate(self.data.encoded.values()):
            fitted = encoded.of_training()
            self.writer.save(f"vocabularies/{index}_counts.npy", fitted.counts)
            if fitted.ids is not None:
                self.writer.save(f"vocabularies/{index}_ids.npy", fitted.ids)
            fitted.values.write_parquet(self.writer.folder / f"vocabularies/{index}_values.parquet")
        for feature in (f for f in schema.features if f.context is not None):
            index = schema.vocabulary_index(feature.vocabulary)
            self.writer.save(f"vocabularies/{index}_counts.npy", np.asarray(schema.vocabularies[index].counts))
            bucket_names(feature.edges).write_parquet(self.writer.folder / f"vocabularies/{index}_values.parquet")

    def _write_histories(self) -> list[dict[str, Any]]:
        described = []
        for b, order in enumerate(self.data.orders):
            for s, sequence in enumerate(order.history.sequences):
                hashed = self.data.encoded[self.data.vocabulary_of(sequence.target, sequence.vocabulary)].hashed
                ids = self.data.event_ids(order, sequence)
                self.writer.save(f"histories/{b}_{s}.npy", ids if hashed else ids.astype(np.int32))
            for c, context in enumerate(order.history.context, len(order.history.sequences)):
                if context.of == "time_gap":
                    self.writer.save(f"histories/{b}_{c}.npy", np.asarray(order.times))
            ranges = order.cut()
            chosen = [ranges[rows.source] for rows in self.data.chosen.splits]
            for name, part in zip(SPLITS, chosen, strict=True):
                self.writer.save(f"{name}/history_{b}.npy", part)
            if order.row_times is not None:
                for name, rows in zip(SPLITS, self.data.chosen.splits, strict=True):
                    self.writer.save(f"{name}/history_{b}_time.npy", order.row_times[rows.source])
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

    @cached_property
    def _dense(self) -> list[np.ndarray]:
        """The N dense features of every staged row, float32 [n] each."""
        return [self.data.dense_column(f) for f in self.data.dense()]

    @cached_property
    def _id_type(self) -> type:
        encoded = self.data.encoded.values()
        wide = any(e.hashed or len(e.of_training().counts) >= 2**31 for e in encoded)
        return np.int64 if wide else np.int32

    def _write_negatives(self) -> dict[str, Any] | None:
        """Write what an epoch draws its negatives from, and what every item of the catalogue is to a model.

        Returns:
            The columns of ids and of dense inputs that belong to the item; None where negatives stay.
        """
        if self.data.chosen.redrawn is None:
            return None
        candidates, rows = self.data.chosen.redrawn.candidates, self.data.chosen.redrawn.first_row
        for name in candidates.array_names():
            self.writer.save(f"negatives/{name}.npy", getattr(candidates, name))
        categorical, dense = (
            [f for f in fs if self.data.chosen.is_item(f.column)] for fs in (self.data.categorical(), self.data.dense())
        )
        ids = self.writer.create("negatives/ids.npy", self._id_type, (len(rows), len(categorical)))
        for j, feature in enumerate(categorical):
            ids[:, j] = self.data.ids(feature, rows)
        floats = self.writer.create("negatives/dense.npy", np.float32, (len(rows), len(dense)))
        for j, feature in enumerate(dense):
            floats[:, j] = self._dense[self.data.dense().index(feature)][rows]
        return {"id_columns": [f.name for f in categorical], "dense_columns": [f.name for f in dense]}

    def _write_rows(self, schema: Schema) -> list[dict[str, Any]]:
        """Write ids, dense, labels, groups and probability of every split; returns what to say about the columns."""
        dense = self._dense
        columns = [self._describe(f) for f in self.data.categorical()]
        for split, name in enumerate(SPLITS):
            rows = self.data.chosen.splits[split]
            n = len(rows.labels)
            ids = self.writer.create(f"{name}/ids.npy", self._id_type, (n, len(columns)))
            floats = self.writer.create(f"{name}/dense.npy", np.float32, (n, len(dense)))
            for start in range(0, n, _CHUNK_ROWS):
                chunk = slice(start, start + _CHUNK_ROWS)
                ids[chunk] = self._id_block(split, chunk, columns, ids.dtype)
                for j, feature in enumerate(self.data.dense()):
                    floats[chunk, j] = dense[j][self.data.chosen.rows_for(feature.column, split)[chunk]]
            for described in columns:
                described["unseen"][name] = described["unseen"].get(name, 0) / n
            self.writer.save(f"{name}/labels.npy", rows.labels.astype(np.float32))
            if self.data.groups is not None:
                self.writer.save(f"{name}/groups.npy", self.data.groups.codes[rows.source])
            if self.data.made.probability is not None:
                self.writer.save(f"{name}/probability.npy", self.data.rows.column(PROBABILITY).to_numpy()[rows.source])
        return columns

    def _id_block(self, split: int, chunk: slice, columns: list[dict[str, Any]], dtype: Any) -> np.ndarray:
        """The ids of some rows, [m, F]; counts the unseen ones into ``columns`` on the way."""
        block = np.empty((len(self.data.chosen.splits[split].labels[chunk]), len(columns)), dtype)
        for j, feature in enumerate(self.data.categorical()):
            block[:, j] = ids = self.data.ids(feature, self.data.chosen.rows_for(feature.column, split)[chunk])
            known = self.data.encoded[feature.vocabulary].of_training().ids
            unseen = ids == 0 if known is None else known[np.searchsorted(known, ids).clip(0, len(known) - 1)] != ids
            counted = columns[j]["unseen"]
            counted[SPLITS[split]] = counted.get(SPLITS[split], 0) + int(unseen.sum())
        return block

    def _describe(self, feature: FeatureRecipe) -> dict[str, Any]:
        cardinality = len(self.data.encoded[feature.vocabulary].of_training().counts)
        return {
            "name": feature.name,
            "vocabulary": feature.vocabulary,
            "hashed": feature.hashed,
            "cardinality": cardinality,
            "unseen": {},
        }

    def _finish(
        self,
        schema: Schema,
        columns: list[dict[str, Any]],
        histories: list[dict[str, Any]],
        negatives: dict[str, Any] | None,
    ) -> None:
        splits = {name: self._split_facts(split) for split, name in enumerate(SPLITS)}
        bad = self.data.sources.bad
        rules = {name: rule.to_json() for name, rule in self.data.rules.items()}
        inputs = [
            {"name": f.name, "column": f.column, "type": f.type, "rule": rules.get(f.name)}
            for f in self.data.made.features
        ]
        self.writer.finish(
            {
                "name": self.data.recipe.name,
                "schema": schema.to_json(),
                "splits": splits,
                "summary": {
                    "description": self.data.recipe.description,
                    "splits": splits,
                    "columns": columns,
                    "dense": list(schema.dense),
                    "histories": histories,
                    "dropped": {"rows": bad.dropped, "first": bad.problems},
                },
                "inputs": inputs,
                **({} if negatives is None else {"negatives": negatives}),
                "recipe": self.data.recipe.model_dump(mode="json", exclude_defaults=True),
                "raw": None if self.data.recipe.synthetic is not None else str(self.data.sources.folder.absolute()),
                "sources": [] if self.data.recipe.synthetic is not None else self.data.sources.checksums,
            }
        )

    def _split_facts(self, split: int) -> dict[str, Any]:
        rows = self.data.chosen.splits[split]
        facts: dict[str, Any] = {"rows": len(rows.labels), "positive_rate": float(rows.labels.mean(dtype=np.float64))}
        if self.data.made.probability is not None:
            facts["best_auc"] = auc(rows.labels, self.data.rows.column(PROBABILITY).to_numpy()[rows.source])
        return facts

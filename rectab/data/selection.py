"""A part of a prepared data set: without some of its features, or with some of its rows; nothing is prepared again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rectab.data.dataset import PreparedDataset
from rectab.data.history_store import HistoryStore
from rectab.data.split import Split
from rectab.named import instead_of
from rectab.schema import Schema

__all__ = ["sampled_rows", "without_features"]


def without_features(dataset: PreparedDataset, names: Sequence[str]) -> PreparedDataset:
    """The same rows, split and labels; vocabularies that nobody reads any more go as well. Nothing is copied.

    Args:
        dataset: as opened.
        names: of categorical features, float columns, sequences, or behaviours (all sequences of one).

    Raises:
        ValueError: there is no such feature, a sequence that stays is compared with one that goes, or nothing is left.
    """
    if not names:
        return dataset
    schema = _schema_without(dataset.schema, _features(dataset.schema, names))
    return replace(
        dataset,
        schema=schema,
        train=_select(dataset.train, schema),
        valid=_select(dataset.valid, schema),
        test=_select(dataset.test, schema),
        description={**dataset.description, "without": sorted(names)},
    )


def sampled_rows(dataset: PreparedDataset, train: int, valid: int, seed: int) -> PreparedDataset:
    """Some rows of training and of validation, chosen at random and in their order; the test split and the vocabularies
    are those of all rows. Nothing is copied.

    Args:
        dataset: as opened.
        train, valid: how many rows; at most as many as there are.
        seed: the same rows for the same seed.
    """
    generator = np.random.default_rng(seed)

    def some(split: Split, count: int) -> Split:
        return split.restrict(np.sort(generator.permutation(len(split))[:count]), split.name)

    return replace(
        dataset,
        train=some(dataset.train, train),
        valid=some(dataset.valid, valid),
        description={**dataset.description, "sampled": [train, valid, seed]},
    )


def _features(schema: Schema, names: Sequence[str]) -> set[str]:
    """Names of features and float columns; a behaviour stands for its sequences."""
    behaviours = schema.behaviours
    known = [*(f.name for f in schema.features), *schema.dense, *behaviours]
    chosen: set[str] = set()
    for name in names:
        if name not in known:
            raise ValueError(f"no feature {name!r} to leave out{instead_of(name, known)}")
        chosen |= {f.name for f in behaviours[name]} if name in behaviours else {name}
    for sequences in behaviours.values():  # positions and times alone say nothing
        stored = [f for f in sequences if f.context is None]
        if stored and all(f.name in chosen for f in stored):
            chosen |= {f.name for f in sequences}
    return chosen


def _schema_without(schema: Schema, chosen: set[str]) -> Schema:
    features = tuple(f for f in schema.features if f.name not in chosen)
    for feature in features:
        if feature.target in chosen:
            raise ValueError(
                f"the sequence {feature.name!r} is compared with {feature.target!r}; leave both out, or its behaviour "
                f"{feature.behaviour!r}"
            )
    if not any(f.kind == "categorical" for f in features):
        raise ValueError("no categorical feature would be left")
    read = {f.vocabulary for f in features}
    return replace(
        schema,
        features=features,
        vocabularies=tuple(v for v in schema.vocabularies if v.name in read),
        dense=tuple(name for name in schema.dense if name not in chosen),
        slice_by=None if schema.slice_by in chosen else schema.slice_by,
    )


def _select(split: Split, schema: Schema) -> Split:
    before = split.schema
    ids = np.array([before.categorical_index(f.name) for f in schema.categorical], np.int64)
    dense = np.array([before.dense.index(name) for name in schema.dense], np.int64)
    stores = (_store_without(store, schema) for store in split._histories)
    histories = tuple(store for store in stores if store.features)
    return replace(split, schema=schema, _histories=histories, _kept=(ids, dense))


def _store_without(store: HistoryStore, schema: Schema) -> HistoryStore:
    kept = [(f, v) for f, v in zip(store.features, store.values, strict=True) if f in schema.features]
    return replace(store, features=tuple(f for f, _ in kept), values=tuple(v for _, v in kept))

"""Where the rows of a stream come from: the generator, or a prepared data set in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from rectab.data import PreparedDataset
from rectab.plain import read_plain
from rectab.schema import Feature, Schema, Vocabulary
from rectab.stream.config import StreamConfig
from rectab.stream.synthetic import Period, SyntheticStream

__all__ = ["PreparedStream", "Source", "Universe", "schema_of", "source_of", "universe_of"]


class Source(Protocol):
    """Periods of rows."""

    @property
    def periods(self) -> int:
        """How many there are."""

    @property
    def features(self) -> Sequence[str]:
        """Names of the columns of ``Period.ids``."""

    @property
    def closed(self) -> dict[str, int]:
        """Features whose ids are ``0 .. size - 1`` and never change -> size."""

    def period(self, number: int) -> Period:
        """The rows of a period, from 0."""


@dataclass(frozen=True)
class Universe:
    """Every id of a stream, which only budgets are shares of, and a table that grows without one.

    Attributes:
        ids: by feature, int64, ascending.
    """

    ids: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> list[int]:
        return [len(ids) for ids in self.ids]


@dataclass(frozen=True)
class PreparedStream:
    """The rows of train, valid and test, one after the other, in ``periods`` parts of equally many rows."""

    path: str
    periods: int

    @cached_property
    def _dataset(self) -> PreparedDataset:
        dataset = PreparedDataset.open(Path(self.path))
        if dataset.schema.behaviours or dataset.schema.dense:
            raise ValueError(f"{self.path}: a stream reads categorical features only; prepare it without the others")
        return dataset

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self._dataset.schema.categorical)

    @cached_property
    def closed(self) -> dict[str, int]:
        schema = self._dataset.schema
        vocabularies = {v.name: v for v in schema.vocabularies}
        found = {f.name: vocabularies[f.vocabulary] for f in schema.categorical}
        return {name: v.num_embeddings for name, v in found.items() if not v.hashed}

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        splits = [self._dataset.train, self._dataset.valid, self._dataset.test]
        ids = [np.stack([split.column(name).astype(np.int64) for name in self.features], 1) for split in splits]
        return np.concatenate(ids), np.concatenate([split.labels for split in splits])

    def period(self, number: int) -> Period:
        ids, labels = self._columns
        borders = np.linspace(0, len(labels), self.periods + 1).astype(np.int64)
        rows = slice(borders[number], borders[number + 1])
        times = number * 1000 + np.arange(len(labels[rows])) * 1000 // max(len(labels[rows]), 1)
        return Period(ids[rows], labels[rows], times)


def source_of(config: StreamConfig, seed: int) -> Source:
    """The stream of a seed: another draw of a synthetic one, the same rows of a data set."""
    if config.prepared is not None:
        return PreparedStream(config.prepared.path, config.prepared.periods)
    return read_plain(SyntheticStream, config.synthetic or {}, "synthetic").seeded(seed)


def _periods(source: Source) -> Iterator[Period]:
    return (source.period(number) for number in range(source.periods))


def universe_of(source: Source) -> Universe:
    """Read the whole stream once, a period at a time."""
    found = [np.empty(0, np.int64) for _ in source.features]
    for period in _periods(source):
        found = [np.union1d(known, period.ids[:, column]) for column, known in enumerate(found)]
    closed = source.closed
    return Universe(
        tuple(np.arange(closed[n]) if n in closed else ids for n, ids in zip(source.features, found, strict=True))
    )


def schema_of(source: Source, sizes: Sequence[int], mapped: bool) -> Schema:
    """A vocabulary a feature; those that are not closed take any id, unless ids are mapped."""
    vocabularies = [
        Vocabulary(name, size, hashed=not mapped and name not in source.closed)
        for name, size in zip(source.features, sizes, strict=True)
    ]
    return Schema(tuple(vocabularies), tuple(Feature(name, name) for name in source.features))

"""Vocabularies of a stream: the ids seen most within a budget of table and id map, and raw ids turned into theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rectab.id_bytes import map_bytes
from rectab.schema import Schema
from rectab.stream.source import Source, Universe, schema_of
from rectab.tables.base import TableOptions
from rectab.tables.full import FullConfig
from rectab.tables.registry import bytes_of

__all__ = ["Fitted", "fit_most_seen", "whole"]


@dataclass(frozen=True)
class Fitted:
    """Attributes:
    values: by feature, the raw id of every id; -1 stands for id 0, which every other raw id is.
    closed: by feature, whether raw ids are ids.
    """

    values: tuple[np.ndarray, ...]
    closed: tuple[bool, ...]

    def ids(self, raw: np.ndarray) -> np.ndarray:
        """int64 [n, F] raw ids -> int64 [n, F] ids."""
        columns = [_places(v, raw[:, f], self.closed[f]) for f, v in enumerate(self.values)]
        return np.stack(columns, 1)

    def schema(self, source: Source) -> Schema:
        """A vocabulary a feature."""
        return schema_of(source, [len(values) for values in self.values], mapped=True)


def _places(values: np.ndarray, raw: np.ndarray, closed: bool) -> np.ndarray:
    if closed:
        return raw
    order = np.argsort(values, kind="stable")
    place = order[np.searchsorted(values, raw, sorter=order).clip(0, len(values) - 1)]
    return np.where(values[place] == raw, place, 0)


def whole(source: Source, universe: Universe) -> Fitted:
    """A row for every id of the stream, also those that are still to come."""
    closed = tuple(name in source.closed for name in source.features)
    return Fitted(tuple(_with_zero(ids, c) for ids, c in zip(universe.ids, closed, strict=True)), closed)


def _with_zero(values: np.ndarray, closed: bool) -> np.ndarray:
    return values if closed else np.concatenate([[-1], values])


def fit_most_seen(
    source: Source,
    universe: Universe,
    counts: Sequence[np.ndarray],
    embedding_dim: int,
    budget: int,
    options: TableOptions,
) -> tuple[Fitted, int, int]:
    """The ids with the largest counts, as many as fit.

    Args:
        source, universe: the stream.
        counts: by feature, int64, in the order of the universe's ids.
        embedding_dim: width of the full table.
        budget: bytes of table and id map.
        options: how rows are held.

    Returns:
        (vocabularies, bytes of the table, bytes of the map). Closed features are kept whole.

    Raises:
        ValueError: not even the closed features fit.
    """
    closed = tuple(name in source.closed for name in source.features)
    open_features = [f for f, c in enumerate(closed) if not c]
    owner = np.concatenate([np.full(len(counts[f]), f) for f in open_features])
    place = np.concatenate([np.arange(len(counts[f])) for f in open_features])
    seen = np.concatenate([counts[f] for f in open_features])
    order = np.argsort(-seen, kind="stable")[: int((seen > 0).sum())]

    def fitted(number: int) -> Fitted:
        chosen = order[:number]
        kept = {f: np.sort(place[chosen][owner[chosen] == f]) for f in open_features}
        values = [ids if closed[f] else universe.ids[f][kept[f]] for f, ids in enumerate(universe.ids)]
        return Fitted(tuple(_with_zero(v, c) for v, c in zip(values, closed, strict=True)), closed)

    @cache
    def sizes(number: int) -> tuple[int, int]:
        schema = fitted(number).schema(source)
        return bytes_of("full", schema.vocabularies, embedding_dim, FullConfig(), options), map_bytes(schema)

    low, high = 0, len(order)
    if sum(sizes(0)) > budget:
        raise ValueError(f"a budget of {budget} bytes does not hold the closed features, which take {sum(sizes(0))}")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(sizes(middle)) <= budget else (low, middle - 1)
    return fitted(low), *sizes(low)

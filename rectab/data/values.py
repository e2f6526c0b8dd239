"""Ids back to the raw values that a person knows."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from rectab.data.dataset import PreparedDataset

__all__ = ["RawValues", "read_values"]


class RawValues:
    """The raw values behind the ids of a prepared data set, read a vocabulary at a time when first asked for.

    Args:
        dataset: where a vocabulary's values were not kept (hashed ones, data sets in memory) ids stand for themselves.
    """

    def __init__(self, dataset: PreparedDataset) -> None:
        self.dataset = dataset
        self._names: dict[str, dict[int, str | None]] = {}

    def of(self, vocabulary: str, ids: Iterable[int]) -> list[str]:
        """The text of every id: its raw value, ``(missing)`` for an empty cell, ``(unseen or rare)`` for id 0 of a
        fitted vocabulary, else ``#id``."""
        if vocabulary not in self._names:
            self._names[vocabulary] = self._read(vocabulary)
        names = self._names[vocabulary]
        hashed = self.dataset.schema.vocabularies[self.dataset.schema.vocabulary_index(vocabulary)].hashed
        return [_text(id_, names, hashed) for id_ in ids]

    def _read(self, vocabulary: str) -> dict[int, str | None]:
        frame = read_values(self.dataset, vocabulary)
        return {} if frame is None else dict(zip(frame["id"].to_list(), frame["value"].to_list(), strict=True))


def read_values(dataset: PreparedDataset, vocabulary: str) -> pl.DataFrame | None:
    """(value as text, id) of every known id of a vocabulary; None where they were not kept."""
    stored = dataset.description.get("schema", {}).get("vocabularies", [])  # also those of features left out since
    names = [entry["name"] for entry in stored]
    if vocabulary not in names:
        return None
    path = dataset.path / f"vocabularies/{names.index(vocabulary)}_values.parquet"
    return pl.read_parquet(path, glob=False) if path.exists() else None


def _text(id_: int, names: dict[int, str | None], hashed: bool) -> str:
    if id_ in names:
        value = names[id_]
        return "(missing)" if value is None else value
    return "(unseen or rare)" if id_ == 0 and not hashed else f"#{id_}"

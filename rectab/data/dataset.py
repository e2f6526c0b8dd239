"""Prepared data sets: memory-mapped splits from which batches are gathered row by row.

A data set may be larger than memory: only the rows of a batch are ever read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rectab.data.candidates import Candidates
from rectab.data.errors import DataError
from rectab.data.history_store import HistoryStore
from rectab.data.negatives import Redraw
from rectab.data.split import Split
from rectab.data.storage import SPLITS, ArrayInfo, open_array, read_description
from rectab.plain import read_plain
from rectab.schema import Schema

__all__ = ["PreparedDataset"]


@dataclass(frozen=True)
class PreparedDataset:
    """A folder written by :func:`rectab.data.prepare`, opened.

    Attributes:
        path: the folder.
        name: the recipe's name.
        schema: the columns; vocabularies carry their training counts.
        train, valid, test: the splits.
        summary: what ``rectab prepare`` printed: rows, positive rates, cardinalities, unseen rates (plain data).
    """

    path: Path
    name: str
    schema: Schema
    train: Split = field(repr=False)
    valid: Split = field(repr=False)
    test: Split = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    description: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: Path | str) -> PreparedDataset:
        """Open a prepared folder without reading its rows.

        Raises:
            DataError: if it is missing, of another version, damaged or cut short.
        """
        path = Path(path)
        description = read_description(path)
        try:
            return cls._from_description(path, description)
        except DataError:
            raise
        except KeyError as error:
            raise DataError(f"{path}: schema.json lacks {error}; run `rectab prepare` again") from None
        except ValueError as error:
            raise DataError(f"{path}: schema.json is damaged ({error}); run `rectab prepare` again") from None

    @classmethod
    def _from_description(cls, path: Path, description: dict[str, Any]) -> PreparedDataset:
        told = read_plain(_Description, description, extra=True)
        arrays = {name: open_array(path, name, expected) for name, expected in told.arrays.items()}
        counts, ids = {}, {}
        for index, vocabulary in enumerate(Schema.from_json(told.schema).vocabularies):
            counts[vocabulary.name] = arrays[f"vocabularies/{index}_counts.npy"]
            if vocabulary.hashed:
                ids[vocabulary.name] = arrays[f"vocabularies/{index}_ids.npy"]
        schema = Schema.from_json(description["schema"], counts, ids)
        splits = {name: _open_split(name, schema, arrays) for name in SPLITS}
        for split in splits.values():
            split.check_shapes()
        splits["train"] = replace(splits["train"], _redraw=_open_redraw(schema, arrays, description.get("negatives")))
        return cls(
            path=path,
            name=told.name,
            schema=schema,
            **splits,
            summary=description["summary"],
            description=description,
        )

    def fingerprint(self) -> str:
        """Hex digest of what the data set holds (recipe, sources, schema, sizes): equal for equal contents, wherever
        the folder lies and whenever it was made."""
        keys = ("version", "name", "schema", "splits", "summary", "recipe", "sources", "arrays")
        told = {key: self.description.get(key) for key in keys}
        for part in ("without", "sampled"):  # features that were left out of what the folder holds, rows that were kept
            if part in self.description:
                told[part] = self.description[part]
        text = json.dumps(told, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Description:
    """What ``schema.json`` has to hold to be opened."""

    name: str
    schema: dict[str, Any]
    arrays: dict[str, ArrayInfo]
    summary: dict[str, Any]


def _open_redraw(schema: Schema, arrays: dict[str, np.ndarray], columns: dict[str, list[str]] | None) -> Redraw | None:
    """What training draws its negatives from; None where they are as stored, also in folders of before."""
    if columns is None:
        return None
    kept = {name: arrays[f"negatives/{name}.npy"] for name in (*Candidates.array_names(), "ids", "dense")}
    ids, dense = kept.pop("ids"), kept.pop("dense")
    return Redraw(
        candidates=Candidates(**kept, size=len(ids)),
        id_columns=tuple(schema.categorical_index(name) for name in columns["id_columns"]),
        ids=ids,
        dense_columns=tuple(schema.dense.index(name) for name in columns["dense_columns"]),
        dense=dense,
    )


def _open_split(name: str, schema: Schema, arrays: dict[str, np.ndarray]) -> Split:
    stores = tuple(
        HistoryStore(
            features=features,
            ranges=arrays[f"{name}/history_{b}.npy"],
            values=tuple(
                None if feature.context == "position" else arrays[f"histories/{b}_{s}.npy"]
                for s, feature in enumerate(features)
            ),
            row_times=arrays.get(f"{name}/history_{b}_time.npy"),
        )
        for b, features in enumerate(schema.behaviours.values())
    )
    return Split(
        name=name,
        schema=schema,
        _ids=arrays[f"{name}/ids.npy"],
        _dense=arrays[f"{name}/dense.npy"],
        _labels=arrays[f"{name}/labels.npy"],
        _groups=arrays.get(f"{name}/groups.npy"),
        _probability=arrays.get(f"{name}/probability.npy"),
        _histories=stores,
    )

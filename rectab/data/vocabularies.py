"""Raw values to ids: the columns of a vocabulary are factorised once, then ids follow from training counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import xxhash

from rectab.data.distinct import number_distinct
from rectab.data.ids import canonical_ids, whole_numbers
from rectab.data.storage import create_array

__all__ = ["Codes", "FittedVocabulary", "factorise", "fit_ids", "hash_values"]

_NULL_BYTES = b"\x00null"  # what a missing value hashes as; no text of a delimited file looks like this


@dataclass
class Codes:
    """The columns of one vocabulary as codes into its sorted distinct values.

    Attributes:
        values: the distinct values of all splits, as :func:`~rectab.data.ids.canonical_ids`, ascending, null first.
        arrays: int32 codes of every column, by key; memory maps.
    """

    values: pl.Series
    arrays: dict[str, np.ndarray]


def factorise(columns: Mapping[str, Callable[[], pl.Series]], scratch: Path, name: str) -> Codes:
    """Replace values by codes, one column in memory at a time.

    Args:
        columns: by key, a function that loads the column.
        scratch: folder for the code arrays.
        name: unique part of the arrays' file names.
    """
    found, paths = {}, {}
    for index, (key, load) in enumerate(columns.items()):
        distinct, codes = number_distinct(load())
        found[key] = canonical_ids(distinct)
        paths[key] = scratch / f"codes-{name}-{index}.npy"
        create_array(paths[key], codes.dtype, codes.shape)[...] = codes
    mixed = len({series.dtype for series in found.values()}) > 1
    if mixed:
        found = {key: series.cast(pl.String) for key, series in found.items()}
    distinct, numbers = number_distinct(pl.concat([series.alias("value") for series in found.values()]))
    if mixed:  # numbers are sorted as they are where all columns are integers
        distinct = whole_numbers(distinct)
    order = distinct.arg_sort(nulls_last=False)
    places = np.empty(len(order), np.int32)
    places[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    arrays, begin = {}, 0
    for key, series in found.items():
        end = begin + len(series)
        arrays[key] = np.load(paths[key], mmap_mode="r+") if end > begin else np.empty(0, np.int32)
        arrays[key][:] = places[numbers[begin:end]][arrays[key]]
        begin = end
    return Codes(distinct.gather(order), arrays)


@dataclass
class FittedVocabulary:
    """What became of a vocabulary's codes.

    Attributes:
        id_of_code: int64 [number of codes]: the id of every code; 0 = unseen or rare (fitted vocabularies).
        counts: int64 [num_embeddings].
        ids: int64 [num_embeddings], hashed vocabularies only: the training ids, ascending.
        values: the raw value of every known id (value, id), as text.
    """

    id_of_code: np.ndarray
    counts: np.ndarray
    ids: np.ndarray | None
    values: pl.DataFrame


def fit_ids(
    values: pl.Series, row_counts: np.ndarray, event_counts: np.ndarray, min_count: int, hashed: bool
) -> FittedVocabulary:
    """Number the values seen in training, the most frequent first.

    A value's count is how often the training rows' categorical columns hold it; a value they never hold, but training
    histories do, counts each of its events once. Null is a value like any other. Nothing outside training counts.

    Args:
        values: distinct values, by code.
        row_counts: int64 [codes]: occurrences in the categorical columns of the training rows.
        event_counts: int64 [codes]: events seen by at least one training row.
        min_count: a fitted value with a smaller count becomes id 0.
        hashed: ids are hashes; nothing becomes id 0.
    """
    counts = np.where(row_counts > 0, row_counts, event_counts)
    if hashed:
        return _hashed(values, counts)
    known = np.flatnonzero(counts >= max(min_count, 1))
    known = known[np.argsort(-counts[known], kind="stable")]
    id_of_code = np.zeros(len(values), np.int64)
    id_of_code[known] = np.arange(1, len(known) + 1)
    rare = counts.sum() - counts[known].sum()
    table = pl.DataFrame({"value": values.gather(known).cast(pl.String), "id": id_of_code[known]})
    return FittedVocabulary(id_of_code, np.concatenate([[rare], counts[known]]).astype(np.int64), None, table)


def _hashed(values: pl.Series, counts: np.ndarray) -> FittedVocabulary:
    id_of_code = hash_values(values)
    known = np.flatnonzero(counts > 0)
    ids, position = np.unique(id_of_code[known], return_inverse=True)  # two values may share a hash
    summed = np.bincount(position, weights=counts[known], minlength=len(ids)).astype(np.int64)
    empty = pl.DataFrame(schema={"value": pl.String, "id": pl.Int64})  # any value can be hashed: nothing to keep
    if not len(ids):
        ids, summed = np.zeros(1, np.int64), np.zeros(1, np.int64)
    return FittedVocabulary(id_of_code, summed, ids, empty)


def hash_values(values: pl.Series, seed: int = 0) -> np.ndarray:
    """int64 [n]: xxh64 of each value's UTF-8 text, as a signed number; the same on every machine."""
    texts = values.cast(pl.String)
    digests = (xxhash.xxh64_intdigest(_NULL_BYTES if text is None else text.encode(), seed) for text in texts)
    return np.fromiter(digests, np.uint64, len(texts)).view(np.int64)

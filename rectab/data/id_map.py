"""From raw values to ids in few bytes: what has to travel with a table so that new rows can be looked up in it.

A value is held as the first bits of its hash. The keys of a vocabulary lie in the order of its ids, so that the order
itself says which id a key is of and nothing else is stored. With b bits, a value outside the vocabulary is taken for
one of its n values with probability ``n / 2**b``. That takes ``log2(n) + log2(1 / probability)`` bits a value, which is
what any map to ids of that reliability needs; a perfect hash with fingerprints and ids adds 2 to 3 bits a value.

Values that the map was made of are never confused: where two of them have equal keys, all are hashed with another salt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
import torch

from rectab.data.dataset import PreparedDataset
from rectab.data.distinct import number_distinct
from rectab.data.errors import DataError
from rectab.data.ids import canonical_ids, id_problem, identifier
from rectab.data.missing import present
from rectab.data.values import read_values
from rectab.data.vocabularies import hash_values
from rectab.id_bytes import IdRange, key_bits
from rectab.ops.packing import pack_codes, packed_bytes, unpack_codes

__all__ = ["IdMap", "VocabularyMap"]

_SALTS = 256  # a salt fails with a probability of at most 0.63
_PLANE = 16  # bits that are packed at a time
_PIECE = 1 << 16  # keys that are unpacked at a time


@dataclass(frozen=True)
class VocabularyMap:
    """The values of one vocabulary.

    Attributes:
        name: of the vocabulary.
        num_embeddings: ids it has; id 0 stands for every value that is not in the map.
        omitted: ranges of ids that are not in the map, ascending; their values read id 0.
        salt: of the hash.
        packed: uint8, the keys of the ids that are kept, in order of ids.

    Raises:
        ValueError: ranges overlap or hold no id of the vocabulary, or the keys are of another number of ids.
    """

    name: str
    num_embeddings: int
    omitted: tuple[IdRange, ...]
    salt: int
    packed: np.ndarray

    def __post_init__(self) -> None:
        borders = [1, *(border for pair in self.omitted for border in pair), self.num_embeddings]
        if any(a > b for a, b in pairwise(borders)) or any(a == b for a, b in self.omitted):
            raise ValueError(
                f"id map of {self.name!r}: {list(self.omitted)} are no ranges of ids 1 to {borders[-1] - 1}"
            )
        if self.packed.shape != (packed_bytes(len(self), self.bits),):
            raise ValueError(f"id map of {self.name!r}: {self.packed.size} bytes do not hold {len(self)} keys")

    @classmethod
    def build(cls, name: str, values: pl.Series, omitted: Sequence[IdRange] = ()) -> VocabularyMap:
        """Of the values of ids 1, 2, ... as text; null is a value.

        Raises:
            DataError: a value occurs twice.
        """
        if values.n_unique() != len(values):
            raise DataError(f"vocabulary {name!r}: a value occurs twice among its {len(values)} values")
        keeps = np.ones(len(values), bool)
        for first, last in omitted:
            keeps[first - 1 : last - 1] = False
        bits = key_bits(int(keeps.sum()), int((~keeps).sum()))
        for salt in range(_SALTS):
            keys = _keys(values, salt, bits)
            kept = np.sort(keys[keeps])
            if (kept[1:] != kept[:-1]).all() and not np.isin(keys[~keeps], kept).any():
                return cls(name, len(values) + 1, tuple(omitted), salt, _pack(keys[keeps], bits))
        raise AssertionError(f"vocabulary {name!r}: no salt tells {len(values)} values apart by {bits} bits")

    def __len__(self) -> int:
        """Values in the map."""
        return self.num_embeddings - 1 - self._num_omitted

    @property
    def _num_omitted(self) -> int:
        return sum(last - first for first, last in self.omitted)

    @property
    def bits(self) -> int:
        """Of a key."""
        return key_bits(len(self), self._num_omitted)

    @property
    def false_positive_rate(self) -> float:
        """How likely a value outside the vocabulary is taken for one of its values."""
        return len(self) / 2**self.bits

    def ids_of(self, values: pl.Series, null_values: Sequence[str] = ()) -> np.ndarray:
        """int64 [n]: the ids of raw values, 0 for those that are not in the map.

        Args:
            values: [n], of any type that a column of ids may have; equal ids are equal whatever their type
                (:func:`rectab.data.ids.canonical_ids`), and null stands for a missing value.
            null_values: texts that mean "no value", as a recipe's ``format.null_values``.

        Raises:
            DataError: a float that may stand for several ids, with its row.
            TypeError: values of this type are no ids.
        """
        if not len(self) or not len(values):
            return np.zeros(len(values), np.int64)
        distinct, numbers = number_distinct(_canonical(self.name, values, null_values))
        found = _keys(distinct, self.salt, self.bits)
        keys, ids = self._sorted
        places = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        return np.where(keys[places] == found, ids[places], 0)[numbers]

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint64 keys, ascending; int64 id of each)."""
        keys, keeps = _unpack(self.packed, self.bits, len(self)), np.ones(self.num_embeddings, bool)
        keeps[0] = False
        for first, last in self.omitted:
            keeps[first:last] = False
        order = np.argsort(keys)
        return keys[order], np.flatnonzero(keeps)[order]


@dataclass(frozen=True)
class IdMap:
    """The map of every vocabulary that needs one: not of hashed ones, whose ids follow from the values.

    Attributes:
        vocabularies: by name.
    """

    vocabularies: Mapping[str, VocabularyMap]

    @classmethod
    def build(cls, dataset: PreparedDataset, omitted: Mapping[str, Sequence[IdRange]] | None = None) -> IdMap | None:
        """Of a prepared data set; None where it kept no values (one in memory).

        Args:
            dataset: the data set.
            omitted: by vocabulary, ranges of ids whose values need not be in the map, as they read what id 0 reads.

        Raises:
            DataError: the values of a vocabulary are not those of its ids.
        """
        found = {}
        for vocabulary in dataset.schema.mapped_vocabularies:
            frame = read_values(dataset, vocabulary.name)
            if frame is None:
                return None
            if not np.array_equal(frame["id"].to_numpy(), np.arange(1, vocabulary.num_embeddings)):
                raise DataError(
                    f"{dataset.path}: the values of vocabulary {vocabulary.name!r} are not those of its "
                    f"{vocabulary.num_embeddings} ids; run `rectab prepare` again"
                )
            found[vocabulary.name] = VocabularyMap.build(
                vocabulary.name, frame["value"], (omitted or {}).get(vocabulary.name, ())
            )
        return cls(found)

    @property
    def bytes(self) -> int:
        """Of what is stored: keys, salts, and the ranges of omitted ids."""
        return sum(array.nbytes for array in self.arrays().values())

    def __len__(self) -> int:
        """Values in all vocabularies."""
        return sum(map(len, self.vocabularies.values()))

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored: ``salts`` uint8 [V], ``omitted`` int32 [R, 3] (vocabulary, first, one after the last id),
        ``keys`` uint8."""
        maps = list(self.vocabularies.values())
        omitted = [(index, *pair) for index, held in enumerate(maps) for pair in held.omitted]
        return {
            "salts": np.array([held.salt for held in maps], np.uint8),
            "omitted": np.array(omitted, np.int32).reshape(-1, 3),
            "keys": np.concatenate([held.packed for held in maps]) if maps else np.zeros(0, np.uint8),
        }

    @classmethod
    def from_arrays(cls, sizes: Iterable[tuple[str, int]], arrays: Mapping[str, np.ndarray]) -> IdMap:
        """Read :meth:`arrays` back; ``sizes``: name and num_embeddings of every vocabulary in order.

        Raises:
            ValueError: the arrays are not those of a map of such vocabularies.
        """
        sizes, begin, found = list(sizes), 0, {}
        salts, omitted, keys = arrays["salts"], arrays["omitted"], arrays["keys"]
        shapes = salts.shape == (len(sizes),) and omitted.ndim == 2 and omitted.shape[1] == 3 and keys.ndim == 1
        dtypes = (salts.dtype, omitted.dtype, keys.dtype) == (np.uint8, np.int32, np.uint8)
        if not (shapes and dtypes and np.isin(omitted[:, 0], np.arange(len(sizes))).all()):
            raise ValueError(f"these are not the arrays of an id map of {len(sizes)} vocabularies")
        for index, (name, num_embeddings) in enumerate(sizes):
            ranges = tuple((int(a), int(b)) for v, a, b in omitted if v == index)
            dropped = sum(b - a for a, b in ranges)
            kept = max(num_embeddings - 1 - dropped, 0)
            end = begin + packed_bytes(kept, key_bits(kept, max(dropped, 0)))
            found[name] = VocabularyMap(name, num_embeddings, ranges, int(salts[index]), keys[begin:end])
            begin = end
        if begin != len(keys):
            raise ValueError(f"an id map of these vocabularies has {begin} bytes of keys, here are {len(keys)}")
        return cls(found)


def _canonical(name: str, values: pl.Series, null_values: Sequence[str]) -> pl.Series:
    """Values as the ids that a data set would make of them."""
    column = pl.col("value")
    cells = (
        values.alias("value").to_frame().lazy().select(present(column, values.dtype, null_values)).collect()["value"]
    )
    identifier(column, cells.dtype)  # refuses types that are no ids
    if (problem := id_problem(column, cells.dtype)) is not None:
        wrong, what = problem
        if (bad := cells.to_frame().select(wrong)["value"]).any():
            raise DataError(f"values of {name!r}, row {bad.arg_true()[0]}: {what}")
    return canonical_ids(cells)


def _keys(values: pl.Series, salt: int, bits: int) -> np.ndarray:
    """uint64 [n]: the highest bits of the hashes."""
    if not bits:
        return np.zeros(len(values), np.uint64)
    return hash_values(values, salt).view(np.uint64) >> np.uint64(64 - bits)


def _pack(keys: np.ndarray, bits: int) -> np.ndarray:
    """uint64 [n] below ``2**bits`` -> uint8 [packed_bytes(n, bits)]: planes of 16 bits, the lowest first."""
    planes = []
    for shift in range(0, bits, _PLANE):
        wide = min(_PLANE, bits - shift)
        plane = (keys >> np.uint64(shift)) & np.uint64((1 << wide) - 1)
        planes.append(pack_codes(torch.from_numpy(plane.astype(np.int32)), wide).numpy())
    return np.concatenate(planes) if planes else np.zeros(0, np.uint8)


def _unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    keys, begin = np.zeros(count, np.uint64), 0
    for shift in range(0, bits, _PLANE):
        wide = min(_PLANE, bits - shift)
        plane = torch.from_numpy(packed[begin : begin + packed_bytes(count, wide)])
        begin += packed_bytes(count, wide)
        for first in range(0, count, _PIECE):
            last = min(first + _PIECE, count)
            part = plane[first * wide // 8 : packed_bytes(last, wide)]
            keys[first:last] |= unpack_codes(part, wide, last - first).numpy().astype(np.uint64) << np.uint64(shift)
    return keys

"""Bytes of the map from raw values to ids (:mod:`rectab.data.id_map`), known before there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rectab.ops.packing import packed_bytes
from rectab.schema import Schema

__all__ = ["FALSE_BITS", "RANGE_BYTES", "SALT_BYTES", "IdRange", "key_bits", "map_bytes"]

FALSE_BITS = 16
"""A value outside a vocabulary is taken for one of its values with a probability of at most 2**-16."""

SALT_BYTES = 1
"""Of a vocabulary: what its values are hashed with."""

RANGE_BYTES = 12
"""Of a range of ids that are left out."""

IdRange = tuple[int, int]
"""The first id, and the one after the last."""


def key_bits(kept: int, omitted: int = 0) -> int:
    """Bits of a key of a vocabulary that keeps so many values and omits others that must not be taken for them.

    As many as make a false positive as rare as it shall be, and as let about every third salt tell all values apart.
    """
    if not kept:
        return 0
    return (kept * max(1 << FALSE_BITS, (kept + 2 * omitted + 1) // 2) - 1).bit_length()


def map_bytes(schema: Schema, omitted: Mapping[str, Sequence[IdRange]] | None = None) -> int:
    """Bytes of the map of a data set: a salt a vocabulary, the keys, and the ranges of ids that are left out.

    Args:
        schema: of the data set.
        omitted: as for :meth:`IdMap.build`.
    """
    total = 0
    for vocabulary in schema.mapped_vocabularies:
        ranges = (omitted or {}).get(vocabulary.name, ())
        dropped = sum(last - first for first, last in ranges)
        kept = vocabulary.num_embeddings - 1 - dropped
        total += SALT_BYTES + RANGE_BYTES * len(ranges) + packed_bytes(kept, key_bits(kept, dropped))
    return total

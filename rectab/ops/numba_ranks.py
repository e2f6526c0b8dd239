"""Which block an id is of and how many ids of that block come before it: the numba kernel of partitions.

Words are read as the machine has them, lowest byte first; numba runs on no other.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel

__all__ = ["positions"]

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_FIVES, _THREES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_NIBBLES, _BYTES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@compiled
def _count_ones(bits):
    bits = bits - ((bits >> _ONE) & _FIVES)
    bits = (bits & _THREES) + ((bits >> np.uint64(2)) & _THREES)
    return np.int64((((bits + (bits >> np.uint64(4))) & _NIBBLES) * _BYTES) >> np.uint64(56))


@compiled
def _position(row, planes, counts, sums, group_bits, sum_bits):
    group, place = row >> group_bits, row & ((1 << group_bits) - 1)
    last, bit, block = place >> 6, np.uint64(place & 63), 0
    for plane in range(planes.shape[2]):
        block |= np.int64(planes[group, last, plane] >> bit & _ONE) << plane
    rank = np.int64(sums[row >> sum_bits, block]) + (np.int64(counts[group, block]) & 0xFFFF)
    for word in range(last + 1):
        same = _ALL if word < last else (_ONE << bit) - _ONE
        for plane in range(planes.shape[2]):
            same &= planes[group, word, plane] ^ (np.uint64(block >> plane & 1) - _ONE)
        rank += _count_ones(same)
    return rank


@parallel
def positions(threads, rows, planes, counts, sums, group_bits, sum_bits, out):
    """Positions of ids in the order of their blocks.

    Args:
        rows: int64 [m]: ids, each of the partition.
        planes: uint64 [groups, words, bits]: bit p of the blocks of a group's ids, 64 ids a word.
        counts: int16 [groups, blocks], read as without a sign: ids of a block since the last entry of ``sums``.
        sums: int32 [sums, blocks]: the position of the next id of a block.
        group_bits, sum_bits: base-2 logarithms of how many ids lie between two counts, and two sums.
        out: int64 [m]: filled.
    """
    for thread in prange(threads):
        for i in range(thread * rows.size // threads, (thread + 1) * rows.size // threads):
            out[i] = _position(rows[i], planes, counts, sums, group_bits, sum_bits)

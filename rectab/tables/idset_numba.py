"""Ranks in an id set on the CPU: what the torch code of :mod:`rectab.tables.idset` answers, in a tenth of the time."""

# mypy misreads numba's decorators, and intrinsics that kernels call.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.jit import compiled, kernel
from rectab.ops.numba_values import prefetch_address

__all__ = [
    "gather_in_bitmap",
    "gather_in_list",
    "list_in_bitmap",
    "list_in_list",
    "ranges_in_list",
    "rank_in_bitmap",
    "rank_in_list",
]


_BLOCK = 64  # ids that are searched together
_COUNTED = 32


@compiled
def _popcount(x: np.uint64) -> np.int64:
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _first_not_below(lows: np.ndarray, start: np.int64, stop: np.int64, low: np.int64) -> np.int64:
    """The first of the rising ``lows[start:stop]`` that is not below ``low``, or ``stop``.

    Few are counted, which takes vector registers; of many, half are left out at a time, without a branch on what is
    compared, which would be mispredicted every second time.
    """
    count = stop - start
    while count > _COUNTED:
        half = count >> 1
        start += half * np.int64(np.int64(lows[start + half - 1]) < low)
        count -= half
    below, bound = np.int32(0), np.int32(low)
    for k in range(start, start + count):
        below += np.int32(np.int32(lows[k]) < bound)
    return start + np.int64(below)


@kernel
def rank_in_bitmap(words: np.ndarray, ranks: np.ndarray, ids: np.ndarray, rank: np.ndarray, member: np.ndarray) -> None:
    """Fill ``rank`` int64 [n] and ``member`` bool [n] for ``ids`` int64 [n] in ``0 .. num_ids - 1``.

    Args:
        words: uint64, one bit an id.
        ranks: int32, one for every four words.
    """
    for i in range(len(ids)):
        word, bit = ids[i] >> 6, np.uint64(ids[i] & 63)
        count = np.int64(ranks[word >> 2])
        for before in range(word & ~3, word):
            count += _popcount(words[before])
        rank[i] = count + _popcount(words[word] & ((np.uint64(1) << bit) - np.uint64(1)))
        member[i] = (words[word] >> bit) & np.uint64(1) != 0


@compiled
def _ask_for_buckets(lows: np.ndarray, ranks: np.ndarray, low_bits: int, ids: np.ndarray, begin: int, end: int) -> None:
    """Have the members of every id's bucket brought near, all of a block at once, before they are searched."""
    size = lows.itemsize
    for i in range(begin, end):
        prefetch_address(ranks.ctypes.data + (ids[i] >> low_bits) * 4)
    for i in range(begin, end):
        bucket = ids[i] >> low_bits
        first, last = np.int64(ranks[bucket]), np.int64(ranks[bucket + 1])
        for line in range(lows.ctypes.data + first * size, lows.ctypes.data + min(last, first + 256) * size, 64):
            prefetch_address(line)


@kernel
def rank_in_list(
    lows: np.ndarray, ranks: np.ndarray, low_bits: int, ids: np.ndarray, rank: np.ndarray, member: np.ndarray
) -> None:
    """As :func:`rank_in_bitmap`, by binary search in each id's bucket.

    Args:
        lows: uint8 or uint16, lower bits of every member.
        ranks: int32 [buckets + 1], where every bucket starts.
        low_bits: bits of a low.
    """
    for begin in range(0, len(ids), _BLOCK):
        block_end = min(begin + _BLOCK, len(ids))
        _ask_for_buckets(lows, ranks, low_bits, ids, begin, block_end)
        for i in range(begin, block_end):
            bucket, low = ids[i] >> low_bits, ids[i] & ((1 << low_bits) - 1)
            end = np.int64(ranks[bucket + 1])
            start = _first_not_below(lows, np.int64(ranks[bucket]), end, low)
            rank[i] = start
            member[i] = start < end and np.int64(lows[start]) == low


@kernel
def list_in_bitmap(
    words: np.ndarray, ids: np.ndarray, length: int, start: np.ndarray, position: np.ndarray, rank: np.ndarray
) -> None:
    """As :func:`list_in_list`; ``position`` and ``rank`` have one place more, for what is written behind the end."""
    at = np.int64(0)
    for i in range(len(ids)):
        found = start[i]
        for offset in range(length):  # without a branch: which bits are set is as good as random
            wanted = ids[i] + offset
            position[at], rank[at] = i * length + offset, found
            member = np.int64((words[wanted >> 6] >> np.uint64(wanted & 63)) & np.uint64(1))
            found += member
            at += member


@kernel
def ranges_in_list(
    lows: np.ndarray, ranks: np.ndarray, low_bits: int, ids: np.ndarray, length: int, start: np.ndarray, end: np.ndarray
) -> None:
    """Fill ``end`` int64 [n]: rank of the first member behind every range ``ids[i] .. ids[i] + length - 1``.

    Args:
        lows, ranks, low_bits: as in :func:`rank_in_list`; ``length`` is at most a bucket.
        start: int64 [n], rank of the first member of every range, or behind it.
    """
    for i in range(len(ids)):
        bucket, behind = ids[i] >> low_bits, (ids[i] & ((1 << low_bits) - 1)) + length
        found, stop = start[i], np.int64(ranks[bucket + 1])
        while found < stop and np.int64(lows[found]) < behind:
            found += 1
        if behind > 1 << low_bits:  # the range runs into the next bucket
            stop = np.int64(ranks[bucket + 2])
            while found < stop and np.int64(lows[found]) < behind - (1 << low_bits):
                found += 1
        end[i] = found


@kernel
def list_in_list(
    lows: np.ndarray,
    low_bits: int,
    ids: np.ndarray,
    length: int,
    start: np.ndarray,
    end: np.ndarray,
    position: np.ndarray,
    rank: np.ndarray,
) -> None:
    """Fill ``position`` and ``rank``, int64 [m], with the members of every range, range after range.

    A member's position is ``i * length`` plus its offset from ``ids[i]``; its rank is its number among all members.

    Args:
        lows, low_bits, ids, length: as in :func:`ranges_in_list`.
        start, end: int64 [n], ranks of the first member of every range and of the first behind it.
    """
    at, mask = 0, (1 << low_bits) - 1
    for i in range(len(ids)):
        for found in range(start[i], end[i]):
            # A range is no longer than a bucket, so the lower bits tell the offset also where it runs into the next.
            position[at] = i * length + ((np.int64(lows[found]) - ids[i]) & mask)
            rank[at] = found
            at += 1


@kernel
def gather_in_bitmap(
    words: np.ndarray, ids: np.ndarray, length: int, start: np.ndarray, values: np.ndarray, out: np.ndarray
) -> None:
    """As :func:`gather_in_list`; ``start`` int64 [n] is the rank of every range's first id."""
    one, mask = np.uint64(1), np.uint64(63)
    for i in range(len(ids)):
        for j in range(length):
            out[i, j] = 0.0
        found, offset = start[i], 0
        while offset < length:
            first = ids[i] + offset
            shift = np.uint64(first) & mask
            here = min(64 - np.int64(shift), length - offset)
            word = words[first >> 6] >> shift
            if here < 64:
                word &= (one << np.uint64(here)) - one
            while word != 0:
                lowest = word & (~word + one)
                out[i, offset + _popcount(lowest - one)] = values[found]
                found += 1
                word ^= lowest
            offset += here


@kernel
def gather_in_list(
    lows: np.ndarray,
    ranks: np.ndarray,
    low_bits: int,
    ids: np.ndarray,
    length: int,
    values: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill ``out`` [n, length] with the values of the members of every range ``ids[i] .. ids[i] + length - 1``.

    Args:
        lows, ranks, low_bits: as in :func:`rank_in_list`; ``length`` is at most a bucket.
        ids: int64 [n].
        values: of every member, by its rank; others give 0.
    """
    size, first = 1 << low_bits, np.empty(_BLOCK, np.int64)
    for begin in range(0, len(ids), _BLOCK):
        block_end = min(begin + _BLOCK, len(ids))
        _ask_for_buckets(lows, ranks, low_bits, ids, begin, block_end)
        for i in range(begin, block_end):
            bucket, low = ids[i] >> low_bits, ids[i] & (size - 1)
            start = _first_not_below(lows, np.int64(ranks[bucket]), np.int64(ranks[bucket + 1]), low)
            first[i - begin] = start
            prefetch_address(values.ctypes.data + start * 4)
            prefetch_address(values.ctypes.data + start * 4 + 60)
        for i in range(begin, block_end):
            bucket, low = ids[i] >> low_bits, ids[i] & (size - 1)
            _write_range(lows, ranks, bucket, low, size, first[i - begin], values, out[i])


@compiled
def _write_range(
    lows: np.ndarray,
    ranks: np.ndarray,
    bucket: int,
    low: int,
    size: int,
    start: int,
    values: np.ndarray,
    out: np.ndarray,
) -> None:
    """The range that starts at ``low`` of a bucket, whose first member that is not below it is number ``start``."""
    length, end = len(out), np.int64(ranks[bucket + 1])
    last, behind = start + length - 1, low + length
    if last < end and np.int64(lows[last]) == behind - 1:  # they rise, so all of the range are members
        for j in range(length):
            out[j] = values[start + j]
        return
    for j in range(length):
        out[j] = 0.0
    while start < end and np.int64(lows[start]) < behind:
        out[np.int64(lows[start]) - low] = values[start]
        start += 1
    if behind > size:  # the range runs into the next bucket
        end = np.int64(ranks[bucket + 2])
        while start < end and np.int64(lows[start]) < behind - size:
            out[np.int64(lows[start]) + size - low] = values[start]
            start += 1

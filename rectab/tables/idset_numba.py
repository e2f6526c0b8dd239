"""Ranks in an id set on the CPU: what the torch code of :mod:`rectab.tables.idset` answers, in a tenth of the time."""

# mypy misreads numba's decorators, and intrinsics that kernels call.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.jit import compiled, kernel
from rectab.ops.numba_lanes import expand_lanes, store_lanes
from rectab.ops.numba_payload import inlined
from rectab.ops.numba_values import prefetch_address
from rectab.ops.numba_vectors import LANES
from rectab.tables.numba_masks import at_once, below, count_bits, offsets_within

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


@inlined
def _first_not_below(lows: np.ndarray, start: np.int64, stop: np.int64, low: np.int64, size: np.int64) -> np.int64:
    """The first of the rising ``lows[start:stop]``, of a bucket of ``size`` ids, not below ``low``; or ``stop``.

    Those below are counted, a vector register at a time: a search by halves waits for its own guesses. Ids are numbered
    by frequency, so many that are looked up lie where everything is a member.
    """
    count = stop - start
    if count == size:
        return start + low
    width = at_once(lows)
    while count > 4 * width:
        half = count >> 1
        start += half * np.int64(np.int64(lows[start + half - 1]) < low)
        count -= half
    end, last, found = start + count, len(lows) - width, start
    if last < 0:  # a short list
        while found < end and np.int64(lows[found]) < low:
            found += 1
        return found
    for at in range(start, end, width):
        place = min(at, last)
        bits = below(lows, place, low) >> np.uint64(at - place)
        if end - at < width:
            bits &= (np.uint64(1) << np.uint64(end - at)) - np.uint64(1)
        found += count_bits(bits)
    return found


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
            count += count_bits(words[before])
        rank[i] = count + count_bits(words[word] & ((np.uint64(1) << bit) - np.uint64(1)))
        member[i] = (words[word] >> bit) & np.uint64(1) != 0


@compiled
def _ask_for_buckets(lows: np.ndarray, ranks: np.ndarray, low_bits: int, ids: np.ndarray, begin: int, end: int) -> None:
    """Have the first members of every id's bucket brought near, all of a block at once, before they are searched."""
    for i in range(begin, end):
        prefetch_address(lows.ctypes.data + np.int64(ranks[ids[i] >> low_bits]) * lows.itemsize)


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
            start = _first_not_below(lows, np.int64(ranks[bucket]), end, low, 1 << low_bits)
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
    for i in range(len(ids)):
        found = start[i]
        for j in range(0, length, LANES):
            first, here = ids[i] + j, min(length - j, LANES)
            shift = np.uint64(first & 63)
            mask = words[first >> 6] >> shift
            if (first & 63) + here > 64:  # the word behind
                mask |= words[(first >> 6) + 1] << (np.uint64(64) - shift)
            mask &= (np.uint64(1) << np.uint64(here)) - np.uint64(1)
            store_lanes(out, i, j, expand_lanes(values.ctypes.data + found * 4, mask))
            found += count_bits(mask)


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
            start = _first_not_below(lows, np.int64(ranks[bucket]), np.int64(ranks[bucket + 1]), low, size)
            first[i - begin] = start
            prefetch_address(values.ctypes.data + start * 4)
            prefetch_address(values.ctypes.data + start * 4 + 60)
        for i in range(begin, block_end):
            bucket, low, found = ids[i] >> low_bits, ids[i] & (size - 1), first[i - begin]
            for j in range(0, length, LANES):
                here = min(length - j, LANES)
                mask = _members(lows, ranks, bucket, low + j, size, found, here)
                store_lanes(out, i, j, expand_lanes(values.ctypes.data + found * 4, mask))
                found += count_bits(mask)


@inlined
def _members(lows: np.ndarray, ranks: np.ndarray, bucket: int, low: int, size: int, found: int, here: int) -> np.uint64:
    """Bit k: whether ``low + k`` of a bucket is a member, k below ``here``; ``found``: its first not below ``low``."""
    mask = _listed(lows, found, np.int64(ranks[bucket + 1]), low, here)
    if low + here > size:  # the range runs into the next bucket
        behind = max(found, np.int64(ranks[bucket + 1]))
        mask |= _listed(lows, behind, np.int64(ranks[bucket + 2]), low - size, here)
    return mask


@inlined
def _listed(lows: np.ndarray, start: int, stop: int, base: int, here: int) -> np.uint64:
    """Bit ``lows[k] - base`` for every k of ``start .. stop - 1`` where that is in ``0 .. here - 1``."""
    if start + LANES <= len(lows):
        return offsets_within(lows, start, stop - start, base, here)
    mask = np.uint64(0)
    while start < stop and np.int64(lows[start]) - base < here:
        mask |= np.uint64(1) << np.uint64(np.int64(lows[start]) - base)
        start += 1
    return mask

"""Numba kernels that read rows and collect gradients. Called through :mod:`rectab.ops.kernels_numba`."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_lanes import load_lanes, store_lanes, take_row
from rectab.ops.numba_values import copy_bytes, mix, owner_of, prefetch, prefetch_address, spread
from rectab.ops.numba_vectors import LANES, multiply_add, splat, sum_lanes

_U32 = np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)
_AHEAD = 32  # rows asked for before they are needed
SUMMED_ROWS = 256
"""Rows of a block of :func:`square_sums`."""
BLOCK = 64
"""Ids that :func:`gather_hashed` hashes at once."""


@njit(inline="always")
def hash_row(value, salt, num_rows):
    """int64 id -> int64 in ``[0, num_rows)``: as :func:`rectab.ops.hashing.hash_rows`."""
    x = mix(np.uint64(value), np.uint64(salt))
    n = np.uint64(num_rows)
    return np.int64(((x >> _U32) * n + (((x & _LOW_32) * n) >> _U32)) >> _U32)


@compiled
def _address(thread, threads, ids, repeat, salt, first_row, num_rows, out, outside):
    total, period = out.size, salt.size
    at, end = thread * total // threads, (thread + 1) * total // threads
    while at < end:
        parameter = at % period
        run = min(period - parameter, end - at)
        place, turn = at // repeat, at % repeat
        for step in range(run):
            value = ids[place]
            turn += 1  # a division an element would take longer than its hash
            if turn == repeat:
                place, turn = place + 1, 0
            n, p = num_rows[parameter + step], parameter + step
            if n > 0:
                out[at + step] = first_row[p] + hash_row(value, salt[p], n)
            elif 0 <= value < -n:
                out[at + step] = first_row[p] + value
            else:
                outside[1] = value
                outside[0] = 1
                return
        at += run


@parallel
def address(threads, ids, repeat, salt, first_row, num_rows, out, outside):
    for thread in prange(threads):
        _address(thread, threads, ids, repeat, salt, first_row, num_rows, out, outside)


@compiled
def _gather(thread, threads, weight, rows, out, outside):
    num_rows = weight.shape[0]
    begin, end = thread * rows.size // threads, (thread + 1) * rows.size // threads
    for i in range(begin, end):
        if i + _AHEAD < end:
            prefetch(weight, rows[i + _AHEAD])
        row = rows[i]
        if row < 0 or row >= num_rows:
            outside[1] = row
            outside[0] = 1
            return
        take_row(weight, row, out, i)


@parallel
def gather(threads, weight, rows, out, outside):
    for thread in prange(threads):
        _gather(thread, threads, weight, rows, out, outside)


@compiled
def _gather_hashed(thread, threads, weight, ids, salts, bases, num_rows, out):
    chunks, period, size = salts.shape[0], salts.shape[1] - BLOCK, weight.shape[1] * weight.itemsize
    begin, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
    source, target = weight.ctypes.data, out.ctypes.data + begin * chunks * size
    found = np.empty((2, chunks, BLOCK), np.int64)
    for first in range(begin, end + BLOCK, BLOCK):
        turn, column, count = (first - begin) // BLOCK & 1, first % period, min(BLOCK, end - first)
        for c in range(chunks):
            for k in range(count):  # in vector registers
                row = bases[c, column + k] + hash_row(ids[first + k], salts[c, column + k], num_rows)
                found[turn, c, k] = source + row * size
        for k in range(count):
            for c in range(chunks):
                prefetch_address(found[turn, c, k])
        if first == begin:
            continue
        for k in range(min(BLOCK, end - first + BLOCK)):  # of the block before, which is near by now
            for c in range(chunks):
                copy_bytes(found[1 - turn, c, k], target, size)
                target += size


@parallel
def gather_hashed(threads, weight, ids, salts, bases, num_rows, out):
    """Fill ``out`` [n, chunks * width] with the rows that every id is hashed to, side by side.

    Args:
        weight: [rows, width].
        ids: int64 [n].
        salts: int64 [chunks, period + BLOCK]: that of the ids 0, 1, ... modulo the period, so many of them once more.
        bases: as ``salts``: the first of the rows that are hashed into.
        num_rows: how many those are.
    """
    for thread in prange(threads):
        _gather_hashed(thread, threads, weight, ids, salts, bases, num_rows, out)


@compiled
def _count_owned(thread, threads, rows, owned):
    count = 0
    for i in range(rows.size):
        count += owner_of(spread(rows[i]), threads) == thread
    owned[thread + 1] = count


@parallel
def count_owned(threads, rows, owned):
    """owned[t + 1]: how many of ``rows`` thread t owns."""
    for thread in prange(threads):
        _count_owned(thread, threads, rows, owned)


@compiled
def _assign_slots(thread, threads, rows, owned, positions, slots, distinct, starts):
    begin, end = owned[thread], owned[thread + 1] - 1
    k = begin
    for i in range(rows.size):  # without a branch: half of them would be mispredicted
        positions[k] = i
        k += owner_of(spread(rows[i]), threads) == thread
    bits = 4
    while (1 << bits) < 2 * (end - begin):
        bits += 1
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    table = np.full(1 << bits, -1, dtype=np.int32)  # open addressing; holds slots
    count = 0
    for k in range(begin, end):
        row = rows[positions[k]]
        at = np.int64(spread(row) >> shift)
        slot = table[at]
        while slot >= 0 and distinct[begin + slot] != row:
            at = (at + 1) & mask
            slot = table[at]
        if slot < 0:
            slot = np.int32(count)
            table[at] = slot
            distinct[begin + count] = row
            count += 1
        slots[k] = slot
    starts[thread + 1] = count


@parallel
def assign_slots(threads, rows, owned, positions, slots, distinct, starts):
    """Each thread lists the positions it owns and numbers its distinct rows as they come.

    Thread t's part of the lists is ``owned[t]`` to ``owned[t + 1] - 1``: one more place takes what a list without
    branches writes behind its end.
    """
    for thread in prange(threads):
        _assign_slots(thread, threads, rows, owned, positions, slots, distinct, starts)


@compiled
def _add_gradients(thread, part, gradients, lists, cursor, filled, out_rows, sums):
    owned, positions, slots, distinct, starts = lists
    begin, end = part
    start, row_dim = starts[thread], sums.shape[1]
    k, fresh, last = cursor[thread], filled[thread], owned[thread + 1] - 1
    while k < last and positions[k] < end:
        if k + _AHEAD < last:
            prefetch(gradients, positions[k + _AHEAD] - begin)
        i, slot = positions[k] - begin, start + slots[k]
        if slots[k] == fresh:  # the first gradient of its row: nothing to add to
            fresh += 1
            out_rows[slot] = distinct[owned[thread] + slots[k]]
            for j in range(0, row_dim, LANES):
                store_lanes(sums, slot, j, load_lanes(gradients, i, j))
        else:
            for j in range(0, row_dim, LANES):
                store_lanes(sums, slot, j, load_lanes(sums, slot, j) + load_lanes(gradients, i, j))
        k += 1
    cursor[thread] = k
    filled[thread] = fresh


@parallel
def add_gradients(threads, part, gradients, lists, cursor, filled, out_rows, sums):
    """Add the gradients of one lookup, the positions ``part`` of all; ``cursor``, ``filled`` carry on."""
    for thread in prange(threads):
        _add_gradients(thread, part, gradients, lists, cursor, filled, out_rows, sums)


@compiled
def _square_sum(sums, begin, end):
    total = splat(np.float32(0))
    for i in range(begin, end):
        for j in range(0, sums.shape[1], LANES):
            value = load_lanes(sums, i, j)
            total = multiply_add(value, value, total)
    return sum_lanes(total)


@parallel
def square_sums(threads, sums, squares):
    """squares[b]: of all elements of the b-th :data:`SUMMED_ROWS` rows of fp32 ``sums`` [u, D]."""
    for thread in prange(threads):
        for block in range(thread * squares.size // threads, (thread + 1) * squares.size // threads):
            begin = block * SUMMED_ROWS
            squares[block] = _square_sum(sums, begin, min(begin + SUMMED_ROWS, sums.shape[0]))

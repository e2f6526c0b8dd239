"""Numba kernels of the slot map. The rule is that of :mod:`rectab.ops.slots_reference`; `kernels_slots` calls them.

Ids that have a slot are found on all threads; those that have none are then taken one after the other.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, kernel, parallel
from rectab.ops.numba_values import mix, prefetch_element

_EMPTY = -1
_LRU, _LFU, _DISTANCE, _TTL, _NEVER = 0, 1, 2, 3, 4
_ALWAYS, _PROBABILITY = 0, 1
_NOW, _LOOKUPS, _ABSENT, _ADMITTED, _EVICTED, _ASKED, _AGED = 0, 2, 3, 4, 5, 6, 7
_AHEAD = 16  # ids whose slots are asked for before they are compared
_MOST = 2**31 - 1

_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
_F1, _F2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_A1, _A2 = np.uint64(0x52DCE729), np.uint64(0x38495AB5)
_FIVE, _BYTES = np.uint64(5), np.uint64(16)
_U1, _U27, _U31, _U32, _U33, _U37 = (np.uint64(n) for n in (1, 27, 31, 32, 33, 37))
_LOW_32 = np.uint64(0xFFFFFFFF)


@njit(inline="always")
def _finished(x):
    x = (x ^ (x >> _U33)) * _F1
    x = (x ^ (x >> _U33)) * _F2
    return x ^ (x >> _U33)


@njit(inline="always")
def murmur(value):
    """int64 -> uint64: as :func:`rectab.ops.murmur.murmur`."""
    k = np.uint64(value) * _C1
    k = ((k << _U31) | (k >> _U33)) * _C2
    first = ((k << _U27) | (k >> _U37)) * _FIVE + _A1
    second = first * _FIVE + _A2
    first, second = first ^ _BYTES, second ^ _BYTES
    first = first + second
    second = second + first
    first, second = _finished(first), _finished(second)
    first = first + second
    return first ^ (second + first)


@njit(inline="always")
def _home(hashed, slots):
    return np.int64(hashed % np.uint64(slots)) if slots > 0 else np.int64(0)


@njit(inline="always")
def _slot_of(value, home, slots, first, identities, max_probe):
    """The slot that holds the id, or -1."""
    if value == _EMPTY:
        return np.int64(-1)
    slot = home
    for _ in range(min(max_probe, slots)):
        held = identities[first + slot]
        if held == value:
            return first + slot
        if held == _EMPTY:
            return np.int64(-1)
        slot += 1
        if slot == slots:
            slot = np.int64(0)
    return np.int64(-1)


@njit(inline="always")
def _fallback(hashed, first, slots, reserved):
    if reserved > 0:
        return first + slots + np.int64(hashed % np.uint64(reserved))
    return first + _home(hashed, slots)


@compiled
def _find(thread, threads, ids, columns, blocks, identities, max_probe, shared, out, outside):
    first_row, num_rows, reserved_rows = blocks
    begin, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
    period = columns.size
    hashes = np.empty(_AHEAD, np.uint64)
    for at in range(begin, end + _AHEAD):
        if at < end:
            block = columns[at % period]
            slots = num_rows[block] - reserved_rows[block]
            hashed = murmur(ids[at])
            hashes[at % _AHEAD] = hashed
            if slots > 0:
                prefetch_element(identities, first_row[block] + _home(hashed, slots))
        i = at - _AHEAD + 1
        if i < begin or i >= end:
            continue
        value, block = ids[i], columns[i % period]
        first, rows, reserved = first_row[block], num_rows[block], reserved_rows[block]
        if rows < 0:
            if value < 0 or value >= -rows:
                outside[1] = value
                outside[0] = 1
                return
            out[i] = first + value
            continue
        hashed = hashes[i % _AHEAD]
        slots = rows - reserved
        found = _slot_of(value, _home(hashed, slots), slots, first, identities, max_probe)
        out[i] = _fallback(hashed, first, slots, reserved) if found < 0 and shared else found


@parallel
def find(threads, ids, columns, blocks, identities, max_probe, shared, out, outside):
    for thread in prange(threads):
        _find(thread, threads, ids, columns, blocks, identities, max_probe, shared, out, outside)


@njit(inline="always")
def _use(row, now, last, count):
    last[row] = now
    if count.size and count[row] < _MOST:
        count[row] += 1


@compiled
def _counted(value, salt, sketch, tally):
    """How often the sketch has seen the id, this time among them (conservative update); one in two and a half ids
    halves a cell, so that the whole sketch is halved in ten updates a column."""
    bits = mix(np.uint64(value), np.uint64(salt))
    low, high = bits & _LOW_32, bits >> _U32
    width = sketch.shape[1]
    seen = np.int64(255)
    for row in range(sketch.shape[0]):
        place = np.int64((((low + np.uint64(row) * high) & _LOW_32) * np.uint64(width)) >> _U32)
        seen = min(seen, np.int64(sketch[row, place]))
    seen += 1
    for row in range(sketch.shape[0]):
        place = np.int64((((low + np.uint64(row) * high) & _LOW_32) * np.uint64(width)) >> _U32)
        sketch[row, place] = max(np.int64(sketch[row, place]), min(seen, np.int64(255)))
    tally[_AGED] += 1
    aged = tally[_AGED] * 2
    if aged % 5 < 2:
        cell = aged // 5 % sketch.size
        sketch[cell // width, cell % width] //= 2
    return seen


@compiled
def _may_enter(value, block, codes, salt, sketch, tally):
    tally[_ASKED] += 1
    if codes[2] == _ALWAYS:
        return True
    if codes[2] == _PROBABILITY:
        return np.int64(mix(np.uint64(value), np.uint64(salt + tally[_ASKED])) >> _U1) < codes[4]
    return _counted(value, salt + block, sketch, tally) >= codes[3]


@compiled
def _place(home, slots, first, codes, decay, now, identities, last, count):
    """The slot that is empty, or whose id makes place; -1 if none does."""
    evict, ttl = codes[0], codes[1]
    chosen, slot = np.int64(-1), home
    lowest, oldest = np.inf, np.int64(_MOST)
    for _ in range(min(codes[5], slots)):
        row = first + slot
        if identities[row] == _EMPTY:
            return chosen if evict == _TTL and chosen >= 0 else row
        used = np.int64(last[row])
        if used < now and evict != _NEVER:
            if evict == _TTL:
                if chosen < 0 and now - used > ttl:
                    chosen = row
            else:
                score = 0.0
                if evict == _LFU:
                    score = np.float64(count[row])
                elif evict == _DISTANCE:
                    score = np.float64(count[row]) / np.float64(now - used + 1) ** decay
                if score < lowest or (score == lowest and used < oldest):
                    chosen, lowest, oldest = row, score, used
        slot += 1
        if slot == slots:
            slot = np.int64(0)
    return chosen


@kernel
def take(ids, columns, blocks, state, codes, decay, salt, rows, admitted, replaced):
    """Ages and counts ``rows`` that were found, takes those that are -1; how many were admitted."""
    first_row, num_rows, reserved_rows = blocks
    identities, last, count, sketch, tally = state
    now, period, number = tally[_NOW], columns.size, 0
    for i in range(ids.size):
        if rows[i] >= 0:
            _use(rows[i], now, last, count)
    for i in range(ids.size):
        if rows[i] >= 0:
            continue
        value, block = ids[i], columns[i % period]
        first, reserved = first_row[block], reserved_rows[block]
        slots = num_rows[block] - reserved
        hashed = murmur(value)
        home = _home(hashed, slots)
        row = _slot_of(value, home, slots, first, identities, codes[5]) if number else np.int64(-1)
        if row < 0 and value != _EMPTY and _may_enter(value, block, codes, salt, sketch, tally):
            row = _place(home, slots, first, codes, decay, now, identities, last, count)
            if row >= 0:
                admitted[number], replaced[number] = row, identities[row]
                number += 1
                tally[_ADMITTED] += 1
                tally[_EVICTED] += identities[row] != _EMPTY
                identities[row] = value
                if count.size:
                    count[row] = 0
        if row >= 0:
            _use(row, now, last, count)
            rows[i] = row
        else:
            tally[_ABSENT] += 1
            rows[i] = _fallback(hashed, first, slots, reserved)
    tally[_LOOKUPS] += ids.size
    return number

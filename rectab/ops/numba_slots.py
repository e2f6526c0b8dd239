"""Numba kernels of the slot map. The rule is that of :mod:`rectab.ops.slots_reference`; `kernels_slots` calls them.

Lookups run on all threads. Training runs on one: ids that have a slot are found and counted, their memory asked for
some ids ahead; those that have none are then taken one after the other.
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
_ALWAYS, _PROBABILITY, _COUNT, _BETTER = 0, 1, 2, 3
_NOW, _LOOKUPS, _ABSENT, _ADMITTED, _EVICTED, _ASKED, _AGED = 0, 2, 3, 4, 5, 6, 7
_AHEAD = 16  # ids whose slots are asked for before they are compared
_CELLS_AHEAD = 8  # the same of cells of the sketch
_MOST = 2**31 - 1
_UNIT = 256.0  # of counts that fade

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
def _faded(count, age, half_life):
    """A count of so long ago, as much as it is worth now."""
    return np.float64(count) if half_life == 0.0 or age == 0 else np.float64(count) * 2.0 ** (-age / half_life)


@njit(inline="always")
def _use(row, now, last, count, half_life):
    if count.size:
        if half_life > 0.0:
            count[row] = np.int64(min(_faded(count[row], np.float64(now - last[row]), half_life) + _UNIT, _MOST))
        elif count[row] < _MOST:
            count[row] += 1
    last[row] = now


@njit(inline="always")
def _cell(bits, row, width):
    low, high = bits & _LOW_32, bits >> _U32
    return np.int64((((low + np.uint64(row) * high) & _LOW_32) * np.uint64(width)) >> _U32)


@compiled
def _ask_for_cells(value, salt, sketch):
    bits = mix(np.uint64(value), np.uint64(salt))
    for row in range(sketch.shape[0]):
        prefetch_element(sketch, row * sketch.shape[1] + _cell(bits, row, sketch.shape[1]))


@compiled
def _counted(value, salt, sketch, tally):
    """How often the sketch has seen the id, this time among them (conservative update); one in two and a half ids
    halves a cell, so that the whole sketch is halved in ten updates a column."""
    bits = mix(np.uint64(value), np.uint64(salt))
    width = sketch.shape[1]
    seen = np.int64(255)
    for row in range(sketch.shape[0]):
        seen = min(seen, np.int64(sketch[row, _cell(bits, row, width)]))
    seen += 1
    for row in range(sketch.shape[0]):
        place = _cell(bits, row, width)
        sketch[row, place] = max(np.int64(sketch[row, place]), min(seen, np.int64(255)))
    tally[_AGED] += 1
    aged = tally[_AGED] * 2
    if aged % 5 < 2:
        cell = aged // 5 % sketch.size
        sketch[cell // width, cell % width] //= 2
    return seen


@compiled
def _may_enter(value, block, codes, salt, sketch, tally):
    """Whether an id may look for a slot; what the sketch has seen of it, where that is to be held against others."""
    tally[_ASKED] += 1
    if codes[2] == _ALWAYS:
        return True, np.int64(0)
    if codes[2] == _PROBABILITY:
        return np.int64(mix(np.uint64(value), np.uint64(salt + tally[_ASKED])) >> _U1) < codes[4], np.int64(0)
    seen = _counted(value, salt + block, sketch, tally)
    return codes[2] == _BETTER or seen >= codes[3], seen


@compiled
def _place(home, slots, first, codes, decay, now, identities, last, count):
    """(the slot that is empty, or whose id makes place; -1 if none does), and what the id there is worth."""
    evict, ttl = codes[0], codes[1]
    chosen, slot = np.int64(-1), home
    lowest, oldest = np.inf, np.int64(_MOST)
    for _ in range(min(codes[5], slots)):
        row = first + slot
        if identities[row] == _EMPTY:
            return (chosen if evict == _TTL and chosen >= 0 else row), -1.0
        used = np.int64(last[row])
        if used < now and evict != _NEVER:
            if evict == _TTL:
                if chosen < 0 and now - used > ttl:
                    chosen = row
            else:
                score = 0.0
                if evict == _LFU:
                    score = _faded(count[row], np.float64(now - used), decay)
                elif evict == _DISTANCE:
                    score = np.float64(count[row]) / np.float64(now - used + 1) ** decay
                if score < lowest or (score == lowest and used < oldest):
                    chosen, lowest, oldest = row, score, used
        slot += 1
        if slot == slots:
            slot = np.int64(0)
    return chosen, lowest


@kernel
def outside_whole(ids, columns, num_rows):
    """Place of the first id that is outside a vocabulary which is kept whole; -1 for none."""
    for i in range(ids.size):
        rows = num_rows[columns[i % columns.size]]
        if rows < 0 and (ids[i] < 0 or ids[i] >= -rows):
            return i
    return -1


@compiled
def _find_used(ids, columns, blocks, state, max_probe, half_life, rows, hashes, missing):
    """Finds, ages and counts the ids that have slots; which have none, and how many."""
    first_row, num_rows, reserved_rows = blocks
    identities, last, count, _, tally = state
    now, period, number = tally[_NOW], columns.size, 0
    for at in range(ids.size + _AHEAD):
        if at < ids.size:
            block = columns[at % period]
            slots = num_rows[block] - reserved_rows[block]
            hashes[at] = murmur(ids[at])
            home = first_row[block] + (_home(hashes[at], slots) if slots > 0 else ids[at])
            prefetch_element(identities, home)
            prefetch_element(last, home)
            if count.size:
                prefetch_element(count, home)
        i = at - _AHEAD
        if i < 0:
            continue
        block = columns[i % period]
        first, slots = first_row[block], num_rows[block] - reserved_rows[block]
        row = first + ids[i]
        if slots > 0 or num_rows[block] >= 0:
            row = _slot_of(ids[i], _home(hashes[i], slots), slots, first, identities, max_probe)
        rows[i] = row
        if row >= 0:
            _use(row, now, last, count, half_life)
        else:
            missing[number] = i
            number += 1
    return number


@kernel
def take(ids, columns, blocks, state, codes, decay, salt, rows, hashes, missing, admitted, replaced):
    """Rows of all ids; ages and counts those that have a slot, then admits others in their order; how many."""
    first_row, num_rows, reserved_rows = blocks
    identities, last, count, sketch, tally = state
    now, period, number = tally[_NOW], columns.size, 0
    half_life = decay if codes[0] == _LFU else 0.0
    counts = codes[2] >= _COUNT
    wanted = _find_used(ids, columns, blocks, state, codes[5], half_life, rows, hashes, missing)
    for at in range(wanted + _CELLS_AHEAD):
        if at < wanted and counts:
            _ask_for_cells(ids[missing[at]], salt + columns[missing[at] % period], sketch)
        if at < _CELLS_AHEAD:
            continue
        i = missing[at - _CELLS_AHEAD]
        value, block = ids[i], columns[i % period]
        first, reserved = first_row[block], reserved_rows[block]
        slots = num_rows[block] - reserved
        home = _home(hashes[i], slots)
        row = _slot_of(value, home, slots, first, identities, codes[5]) if number else np.int64(-1)
        if row < 0 and value != _EMPTY:
            may, seen = _may_enter(value, block, codes, salt, sketch, tally)
            if may:
                row, worth = _place(home, slots, first, codes, decay, now, identities, last, count)
                if codes[2] == _BETTER and np.float64(seen) * (_UNIT if half_life > 0.0 else 1.0) <= worth:
                    row = np.int64(-1)
            if row >= 0:
                admitted[number], replaced[number] = row, identities[row]
                number += 1
                tally[_ADMITTED] += 1
                tally[_EVICTED] += identities[row] != _EMPTY
                identities[row] = value
                if count.size:
                    count[row] = 0
        if row >= 0:
            _use(row, now, last, count, half_life)
            rows[i] = row
        else:
            tally[_ABSENT] += 1
            rows[i] = _fallback(hashes[i], first, slots, reserved)
    tally[_LOOKUPS] += ids.size
    return number

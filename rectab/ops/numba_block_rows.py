"""Vectors of one block out of its packed bytes, decoded in registers: a loop for every kind of encoding.

:mod:`rectab.ops.numba_blocks` sorts the ids of a lookup by block and calls these. Arguments they share:

* ``payload``: uint8, of all blocks. The block's own begins at ``begin``, and its rows, behind steps or codebooks, at
  ``coded``.
* ``span``: (first, last) of the sorted ids. The i-th vector begins at bit ``where[i]`` of the payload and goes to
  ``out[first + order[i]]``; where rows are ternary, ``where[i]`` is ``8 * coded`` and the number of the row.

Lanes that would reach beyond the payload are decoded one by one.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit

from rectab.jit import compiled
from rectab.ops.grids import GRIDS
from rectab.ops.numba_bits import (
    copy_1,
    copy_2,
    copy_4,
    copy_8,
    integers_of_words,
    lanes_of_bytes,
    lanes_of_codes,
    lanes_of_halves,
    lanes_of_integers,
    load_1,
    load_2,
    load_4,
    load_8,
)
from rectab.ops.numba_lanes import load_lanes, store_lanes
from rectab.ops.numba_values import half_to_float, prefetch_element
from rectab.ops.numba_vectors import LANES

__all__ = ["AHEAD", "BOOK_FP16", "BOOK_INT8", "FP16", "GRID", "RARE", "SHARED", "decode", "rows_of"]

SHARED, RARE, FP16, GRID, BOOK_INT8, BOOK_FP16 = range(6)
AHEAD = 12  # vectors whose bytes are asked for before they are decoded
_POWERS = np.array([1, 3, 9, 27, 81], np.int64)
_BITS = np.array([grid.bits for grid in GRIDS.values()], np.int64)  # 0 is ternary
_OFFSETS = np.array([grid.offset for grid in GRIDS.values()], np.float32)

inlined = njit(forceinline=True, error_model="numpy")  # a call with arrays costs as much as decoding


@inlined
def rows_of(code, begin, rows, width):
    """(where a block's rows begin behind its steps or codebooks, bits of a row); 1 bit for ternary ones."""
    kind = code & 15
    if kind == GRID:
        per, bits = code >> 7 & 3, _BITS[code >> 4 & 7]
        return begin + 2 * (rows if per == 2 else width if per == 1 else 1), max(bits * width, 1)
    if kind in (BOOK_INT8, BOOK_FP16):
        bits, part = code >> 4 & 15, code >> 8 & 127
        books = 2 + (width << bits) if kind == BOOK_INT8 else 2 * (width << bits)
        return begin + books, bits if part == 0 else bits * ((width + part - 1) // part)
    return begin, 16 * width if kind == FP16 else 0


@inlined
def decode(payload, begin, coded, code, span, where, order, steps, entries, out, first):
    """Decode what a span asks of the block of this code; ``steps`` fp32 [1, >= D] and ``entries`` uint8 are scratch."""
    kind = code & 15
    if kind == GRID:
        _on_grid(payload, begin, coded, code, span, where, order, steps, out, first)
    elif kind in (BOOK_INT8, BOOK_FP16):
        _from_books(payload, begin, coded, code, span, where, order, entries, out, first)
    elif kind == SHARED:
        _shared(payload, begin, span, order, out, first)
    else:
        _fp16(payload, span, where, order, out, first)


@inlined
def _half(payload, at):
    return half_to_float(np.int16(np.uint16(payload[at]) | np.uint16(payload[at + 1]) << np.uint16(8)))


@inlined
def _code(payload, at, bits):
    """The code of up to 12 bits that begins at bit ``at``; nothing beyond the payload is read."""
    byte, last = at >> 3, payload.size - 1
    if byte + 3 <= last:
        found = load_4(payload.ctypes.data + byte)
    else:
        found = np.uint64(payload[byte]) | np.uint64(payload[min(byte + 1, last)]) << np.uint64(8)
        found |= np.uint64(payload[min(byte + 2, last)]) << np.uint64(16)
    return np.int64(found >> np.uint64(at & 7)) & ((1 << bits) - 1)


@inlined
def _ahead(payload, where, i):
    prefetch_element(payload, where[i + AHEAD] >> 3)


@inlined
def _store_halves(payload, begin, out, to):
    width = out.shape[1]
    for j in range(0, width, LANES):
        if begin + 2 * (j + LANES) <= payload.size:
            store_lanes(out, to, j, lanes_of_halves(payload.ctypes.data + begin + 2 * j))
        else:
            for k in range(j, min(j + LANES, width)):
                out[to, k] = _half(payload, begin + 2 * k)


@inlined
def _store_integers(payload, begin, scale, out, to):
    width = out.shape[1]
    for j in range(0, width, LANES):
        if begin + j + LANES <= payload.size:
            store_lanes(out, to, j, lanes_of_integers(payload.ctypes.data + begin + j) * scale)
        else:
            for k in range(j, min(j + LANES, width)):
                out[to, k] = np.float32(np.int8(payload[begin + k])) * scale


@compiled
def _shared(payload, begin, span, order, out, first):
    scale = _half(payload, begin)
    for i in range(span[0], span[1]):
        _store_integers(payload, begin + 2, scale, out, first + order[i])


@compiled
def _fp16(payload, span, where, order, out, first):
    for i in range(span[0], span[1]):
        _ahead(payload, where, i)
        _store_halves(payload, where[i] >> 3, out, first + order[i])


@compiled
def _bytes_on_grid(payload, begin, coded, per, span, where, order, steps, out, first):
    width = out.shape[1]
    for i in range(span[0], span[1]):
        at, to = where[i] >> 3, first + order[i]
        _ahead(payload, where, i)
        if per == 2:
            steps[:] = _half(payload, begin + 2 * ((at - coded) // width))
        for j in range(0, width, LANES):
            if at + j + LANES <= payload.size:
                codes = lanes_of_bytes(payload.ctypes.data + at + j) - np.float32(128)
                store_lanes(out, to, j, codes * load_lanes(steps, 0, j))
            else:
                for k in range(j, min(j + LANES, width)):
                    out[to, k] = (np.float32(payload[at + k]) - np.float32(128)) * steps[0, k]


@compiled
def _bits_on_grid(payload, begin, coded, per, bits, offset, span, where, order, steps, out, first):
    width = out.shape[1]
    for i in range(span[0], span[1]):
        at, to = where[i], first + order[i]
        _ahead(payload, where, i)
        if per == 2:
            steps[:] = _half(payload, begin + 2 * ((at - 8 * coded) // (width * bits)))
        for j in range(0, width, LANES):
            byte = (at + j * bits) >> 3
            if byte + bits + 8 <= payload.size:
                codes = lanes_of_codes(payload.ctypes.data + byte, (at + j * bits) & 7, bits) - offset
                store_lanes(out, to, j, codes * load_lanes(steps, 0, j))
            else:
                for k in range(j, min(j + LANES, width)):
                    out[to, k] = (np.float32(_code(payload, at + k * bits, bits)) - offset) * steps[0, k]


@compiled
def _trits_on_grid(payload, begin, coded, per, span, where, order, steps, out, first):
    width = out.shape[1]
    for i in range(span[0], span[1]):
        place = where[i] - 8 * coded
        if per == 2:
            steps[:] = _half(payload, begin + 2 * place)
        byte, digit = coded + place * width // 5, place * width % 5
        for j in range(width):
            value = (np.int64(payload[byte]) * _POWERS[digit] & 255) * 3 >> 8
            out[first + order[i], j] = np.float32(value - 1) * steps[0, j]
            digit += 1
            if digit == 5:
                byte, digit = byte + 1, 0


@inlined
def _on_grid(payload, begin, coded, code, span, where, order, steps, out, first):
    per, bits, offset = code >> 7 & 3, _BITS[code >> 4 & 7], _OFFSETS[code >> 4 & 7]
    if per == 0:
        steps[:] = _half(payload, begin)
    elif per == 1:
        for k in range(out.shape[1]):
            steps[0, k] = _half(payload, begin + 2 * k)
    if bits == 8:
        _bytes_on_grid(payload, begin, coded, per, span, where, order, steps, out, first)
    elif bits == 0:
        _trits_on_grid(payload, begin, coded, per, span, where, order, steps, out, first)
    else:
        _bits_on_grid(payload, begin, coded, per, bits, offset, span, where, order, steps, out, first)


@inlined
def _copy(target, to, source, begin, count):
    """Bytes; the counts that codebooks have most often in one move."""
    if count == 4:
        copy_4(target.ctypes.data + to, source.ctypes.data + begin)
    elif count == 2:
        copy_2(target.ctypes.data + to, source.ctypes.data + begin)
    elif count == 8:
        copy_8(target.ctypes.data + to, source.ctypes.data + begin)
    elif count == 1:
        copy_1(target.ctypes.data + to, source.ctypes.data + begin)
    else:
        for k in range(count):
            target[to + k] = source[begin + k]


@inlined
def _load_part(address, part):
    if part == 2:
        return load_2(address)
    if part == 4:
        return load_4(address)
    return load_1(address) if part == 1 else load_8(address)


@inlined
def _by_parts(payload, books, size, at, bits, part, scale, entries, out, to):
    """One vector, its parts copied to ``entries`` first; they have ``size`` bytes a number."""
    width = out.shape[1]
    for begun in range(0, width, part):
        own = min(part, width - begun)
        entry = (begun << bits) + _code(payload, at, bits) * own
        _copy(entries, begun * size, payload, books + entry * size, own * size)
        at += bits
    if size == 1:
        _store_integers(entries, 0, scale, out, to)
    else:
        _store_halves(entries, 0, out, to)


@inlined
def _by_words(address, books, at, bits, part, scale, out, to):
    """One vector of int8 entries, parts of 1, 2, 4 or 8 dimensions: 16 dimensions are put together in two words."""
    width, mask, half = out.shape[1], np.uint64((1 << bits) - 1), 8 // part
    for j in range(0, width, LANES):
        low, high, begun = np.uint64(0), np.uint64(0), j
        for k in range(min(2 * half, (width - j + part - 1) // part)):
            code = np.int64(load_4(address + (at >> 3)) >> np.uint64(at & 7) & mask)
            entry = _load_part(address + books + (begun << bits) + code * min(part, width - begun), part)
            if k < half:
                low |= entry << np.uint64(8 * part * k)
            else:
                high |= entry << np.uint64(8 * part * (k - half))
            at, begun = at + bits, begun + part
        store_lanes(out, to, j, integers_of_words(low, high) * scale)


@compiled
def _from_books(payload, begin, coded, code, span, where, order, entries, out, first):
    width, bits, part, size = out.shape[1], code >> 4 & 15, code >> 8 & 127, 1
    part = part if part > 0 else width
    books, scale = begin + 2, np.float32(1)
    if code & 15 == BOOK_FP16:
        books, size = begin, 2
    else:
        scale = _half(payload, begin)
    each = (width + part - 1) // part * bits
    by_words = size == 1 and (part == 1 or part == 2 or part == 4 or part == 8) and coded + 8 <= payload.size
    for i in range(span[0], span[1]):
        at, to = where[i], first + order[i]
        _ahead(payload, where, i)
        if part == width:
            entry = books + _code(payload, at, bits) * width * size
            if size == 1:
                _store_integers(payload, entry, scale, out, to)
            else:
                _store_halves(payload, entry, out, to)
        elif by_words and (at + each >> 3) + 4 <= payload.size:
            _by_words(payload.ctypes.data, books, at, bits, part, scale, out, to)
        else:
            _by_parts(payload, books, size, at, bits, part, scale, entries, out, to)

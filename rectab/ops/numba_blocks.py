"""Vectors out of blocks of packed bytes, decoded in registers: the numba kernel of the quantized table.

A table is cut into blocks of rows, each held in one encoding (:mod:`rectab.quantize.encodings`), whose payload lies at
any byte. :mod:`rectab.tables.quantized.codes` says how an encoding is written as one integer.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.grids import GRIDS
from rectab.ops.numba_bits import (
    copy_1,
    copy_2,
    copy_4,
    copy_8,
    lanes_of_bytes,
    lanes_of_codes,
    lanes_of_halves,
    lanes_of_integers,
    word,
)
from rectab.ops.numba_lanes import load_lanes, write_block
from rectab.ops.numba_values import copy_row, half_to_float, prefetch_element
from rectab.ops.numba_vectors import LANES

__all__ = ["BOOK_FP16", "BOOK_INT8", "FP16", "GRID", "RARE", "SHARED", "lookup"]

SHARED, RARE, FP16, GRID, BOOK_INT8, BOOK_FP16 = range(6)
_POWERS = np.array([1, 3, 9, 27, 81], np.int64)
_BITS = np.array([grid.bits for grid in GRIDS.values()], np.int64)  # 0 is ternary
_OFFSETS = np.array([grid.offset for grid in GRIDS.values()], np.float32)
_TILE = 64

inlined = njit(forceinline=True, error_model="numpy")  # a call with arrays costs as much as decoding


@inlined
def _half(payload, at):
    return half_to_float(np.int16(np.uint16(payload[at]) | np.uint16(payload[at + 1]) << np.uint16(8)))


@inlined
def _code(payload, at, bits):
    """The code of up to 12 bits that begins at bit ``at``; nothing beyond the payload is read."""
    byte, last = at >> 3, payload.size - 1
    if byte + 3 <= last:
        found = word(payload.ctypes.data + byte)
    else:
        found = np.uint64(payload[byte]) | np.uint64(payload[min(byte + 1, last)]) << np.uint64(8)
        found |= np.uint64(payload[min(byte + 2, last)]) << np.uint64(16)
    return np.int64(found >> np.uint64(at & 7)) & ((1 << bits) - 1)


# Vectors are decoded into ``row``, fp32 in whole blocks of lanes; what lies beyond the width is any number. Lanes that
# would reach beyond the payload are decoded one by one.


@inlined
def _halves(payload, begin, width, row):
    for j in range(0, width, LANES):
        if begin + 2 * (j + LANES) <= payload.size:
            write_block(row, j, lanes_of_halves(payload.ctypes.data + begin + 2 * j))
        else:
            for k in range(j, min(j + LANES, width)):
                row[k] = _half(payload, begin + 2 * k)


@inlined
def _integers(payload, begin, scale, width, row):
    for j in range(0, width, LANES):
        if begin + j + LANES <= payload.size:
            write_block(row, j, lanes_of_integers(payload.ctypes.data + begin + j) * scale)
        else:
            for k in range(j, min(j + LANES, width)):
                row[k] = np.float32(np.int8(payload[begin + k])) * scale


@inlined
def _bytes_on_grid(payload, begin, steps, block, width, row):
    for j in range(0, width, LANES):
        if begin + j + LANES <= payload.size:
            codes = lanes_of_bytes(payload.ctypes.data + begin + j)
            write_block(row, j, (codes - np.float32(128)) * load_lanes(steps, block, j))
        else:
            for k in range(j, min(j + LANES, width)):
                row[k] = (np.float32(payload[begin + k]) - np.float32(128)) * steps[block, k]


@inlined
def _bits_on_grid(payload, at, bits, offset, steps, block, width, row):
    for j in range(0, width, LANES):
        byte = (at + j * bits) >> 3
        if byte + bits + 8 <= payload.size:
            codes = lanes_of_codes(payload.ctypes.data + byte, (at + j * bits) & 7, bits)
            write_block(row, j, (codes - offset) * load_lanes(steps, block, j))
        else:
            for k in range(j, min(j + LANES, width)):
                row[k] = (np.float32(_code(payload, at + k * bits, bits)) - offset) * steps[block, k]


@inlined
def _trits_on_grid(payload, begin, place, steps, block, width, row):
    byte, digit = begin + place // 5, place % 5
    for j in range(width):
        value = (np.int64(payload[byte]) * _POWERS[digit] & 255) * 3 >> 8
        row[j] = np.float32(value - 1) * steps[block, j]
        digit += 1
        if digit == 5:
            byte, digit = byte + 1, 0


@inlined
def _on_grid(payload, begin, code, place, rows, block, known, steps, width, row):
    """``steps`` fp32 [blocks, D] of the block are filled where ``known`` is 0; those of single rows every time."""
    grid, per = code >> 4 & 7, code >> 7 & 3
    if per == 2:
        steps[block] = _half(payload, begin + 2 * place)
        begin += 2 * rows
    else:
        if not known[block]:
            known[block] = 1
            if per == 1:
                _halves(payload, begin, width, steps[block])
            else:
                steps[block] = _half(payload, begin)
        begin += 2 * width if per == 1 else 2
    bits = _BITS[grid]
    if bits == 8:
        _bytes_on_grid(payload, begin + place * width, steps, block, width, row)
    elif bits == 0:
        _trits_on_grid(payload, begin, place * width, steps, block, width, row)
    else:
        _bits_on_grid(payload, begin * 8 + place * width * bits, bits, _OFFSETS[grid], steps, block, width, row)


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
def _from_books(payload, begin, code, place, entries, width, row):
    """``entries`` uint8: scratch for the int8 entries of a vector, or for the halves."""
    bits, sub_dim, size = code >> 4 & 15, code >> 8 & 127, 1
    sub_dim = sub_dim if sub_dim > 0 else width
    books, scale = begin + 2, np.float32(1)
    if code & 15 == BOOK_FP16:
        books, size = begin, 2
    else:
        scale = _half(payload, begin)
    parts, count = (width + sub_dim - 1) // sub_dim, 1 << bits
    at = (books + count * width * size) * 8 + place * parts * bits
    if parts == 1:
        entry = books + _code(payload, at, bits) * width * size
        if size == 1:
            _integers(payload, entry, scale, width, row)
        else:
            _halves(payload, entry, width, row)
        return
    for first in range(0, width, sub_dim):
        part = min(sub_dim, width - first)
        entry = count * first + _code(payload, at, bits) * part
        _copy(entries, first * size, payload, books + entry * size, part * size)
        at += bits
    if size == 1:
        _integers(entries, 0, scale, width, row)
    else:
        _halves(entries, 0, width, row)


@inlined
def _start_of(code, begin, place, rows, width):
    """Where about the bytes of a row lie."""
    kind, bits = code & 15, 0
    if kind == GRID:
        per = code >> 7 & 3
        bits = max(_BITS[code >> 4 & 7], 1) * width
        begin += 2 * rows if per == 2 else 2 * width if per == 1 else 2
    elif kind in (BOOK_INT8, BOOK_FP16):
        per, sub_dim = code >> 4 & 15, code >> 8 & 127
        bits = per if sub_dim == 0 else per * ((width + sub_dim - 1) // sub_dim)
        begin += (width << per) * (1 if kind == BOOK_INT8 else 2)
    elif kind == FP16:
        bits = 16 * width
    return begin + (place * bits >> 3)


@inlined
def _decode(payload, begin, code, place, rows, block, known, steps, entries, width, row):
    kind = code & 15
    if kind == GRID:
        _on_grid(payload, begin, code, place, rows, block, known, steps, width, row)
    elif kind in (BOOK_INT8, BOOK_FP16):
        _from_books(payload, begin, code, place, entries, width, row)
    elif kind == SHARED:
        _integers(payload, begin + 2, _half(payload, begin), width, row)
    else:
        _halves(payload, begin + 2 * place * width, width, row)


@compiled
def _lookup(start, end, ids, columns, ranges, blocks, codes, payload, firsts, out, outside):
    """Ids come in tiles: all of a tile are found, and their bytes asked for, before the first is decoded."""
    width, period, num_blocks = out.shape[1], columns.size, blocks.shape[0]
    padded, total = (width + LANES - 1) // LANES * LANES, ranges[-1, 0] + ranges[-1, 1]
    steps, known = np.empty((num_blocks, padded), np.float32), np.zeros(num_blocks, np.uint8)
    row, entries = np.empty(padded, np.float32), np.empty(2 * padded, np.uint8)
    single, at = row[:width].reshape(1, width), start % period
    places, found, sizes = np.empty(_TILE, np.int64), np.empty(_TILE, np.int64), np.empty(_TILE, np.int64)
    for first in range(start, end, _TILE):
        count = min(_TILE, end - first)
        for i in range(count):
            column, place = columns[at], ids[first + i]
            at = at + 1 if at + 1 < period else 0
            if place < 0 or place >= ranges[column, 1]:
                outside[1] = place
                outside[0] = 1
                return
            place, block = place + ranges[column, 0], firsts[column]
            while block + 1 < num_blocks and blocks[block + 1, 0] <= place:
                block += 1
            if codes[block] & 15 == RARE:
                place, block = np.int64(ranges[column, 0]), firsts[column]
            begins, following = blocks[block, 0], blocks[block + 1, 0] if block + 1 < num_blocks else total
            places[i], found[i], sizes[i] = place - begins, block, following - begins
            address = _start_of(np.int64(codes[block]), np.int64(blocks[block, 1]), places[i], sizes[i], width)
            prefetch_element(payload, address)
        for i in range(count):
            block = found[i]
            code, begin = np.int64(codes[block]), np.int64(blocks[block, 1])
            _decode(payload, begin, code, places[i], sizes[i], block, known, steps, entries, width, row)
            copy_row(single, 0, out, first + i)


@compiled
def _first_blocks(ranges, blocks):
    """The first block of every vocabulary."""
    firsts, block = np.empty(ranges.shape[0], np.int64), 0
    for v in range(ranges.shape[0]):
        while blocks[block, 0] < ranges[v, 0]:
            block += 1
        firsts[v] = block
    return firsts


@parallel
def lookup(threads, ids, columns, ranges, blocks, codes, payload, out, outside):
    """Vectors of ids.

    Args:
        ids: int64 [n].
        columns: int64 [m], m divides n: index of the vocabulary of ids ``i``, ``i + m``, ...
        ranges: int [V, 2]: first row and number of rows of every vocabulary.
        blocks: int [blocks, 2]: first row, and where the payload begins.
        codes: int16 [blocks].
        payload: uint8.
        out: fp32 [n, D]: filled.
        outside: int64 [2]: becomes (1, id) if an id is not in its vocabulary; ``out`` is then undefined.
    """
    firsts = _first_blocks(ranges, blocks)
    for thread in prange(threads):
        start, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
        _lookup(start, end, ids, columns, ranges, blocks, codes, payload, firsts, out, outside)

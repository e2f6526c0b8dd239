"""Vectors out of blocks of packed bytes: the numba kernel of the quantized table.

A table is cut into blocks of rows, each held in one encoding (:mod:`rectab.quantize.encodings`), whose payload lies at
any byte. :mod:`rectab.tables.quantized.codes` says how an encoding is written as one integer.

Ids come in tiles. Those of a vocabulary are found, and their bytes asked for, and are put in order of block; then each
block decodes its run (:mod:`rectab.ops.numba_runs`). No branch depends on an id: the processor guesses none wrong.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_bits import bit_length
from rectab.ops.numba_payload import RARE, block_bytes, end_of, row_bits, rows_begin, source_of
from rectab.ops.numba_runs import decode_run, scratch_bytes
from rectab.ops.numba_values import prefetch_element

__all__ = ["lookup"]

_TILE_FLOATS = 1 << 22  # of vectors: long runs of one block are worth more than vectors that stay in a cache
_LENGTHS = 65  # of the bits of an id


@compiled
def _searched(ranges, blocks):
    """For finding blocks: int64 first row of every block, and behind them any number of rows that none has; by
    vocabulary the first block, and where to begin: by the number of bits of an id the last block that the smallest
    such id may be in, and the largest power of two that is at most the number of blocks that may follow, or 0.

    Blocks lie as ids fall in frequency, each many times as long as the one before, so that few begin among the ids of
    one number of bits.
    """
    count, num_vocabularies = blocks.shape[0], ranges.shape[0]
    starts = np.full(2 * count + 1, np.iinfo(np.int64).max, np.int64)
    for block in range(count):
        starts[block] = blocks[block, 0]
    firsts, steps = np.empty(num_vocabularies + 1, np.int64), np.empty(num_vocabularies, np.int64)
    begun = np.zeros((num_vocabularies, _LENGTHS), np.int64)
    block = 0
    for v in range(num_vocabularies):
        firsts[v], first_row = block, np.int64(ranges[v, 0])
        while block < count and starts[block] < first_row + ranges[v, 1]:
            block += 1
        at, end, most = firsts[v], firsts[v], 0
        for bits in range(_LENGTHS):
            smallest = first_row + (np.int64(1) << min(bits - 1, 32) if bits > 0 else 0)
            while at + 1 < block and starts[at + 1] <= smallest:
                at += 1
            begun[v, bits] = at
            end = max(end, at)
            while end + 1 < block and starts[end + 1] < first_row + (np.int64(1) << min(bits, 32)):
                end += 1
            most = max(most, end - at)
        step = 1
        while 2 * step <= most:
            step *= 2
        steps[v] = step if most > 0 else 0
    firsts[num_vocabularies] = block
    return starts, firsts, steps, begun


@compiled
def _laid(ranges, codes, starts, firsts, width):
    """By block: where its payload begins; where its rows do, and the bits of each; the block that its ids read, and a
    mask of their places: those of a rare block all read the first id of the vocabulary."""
    count, begin = codes.size, np.int64(0)
    begins, rows_from, bits = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    read, masks = np.arange(count), np.full(count, -1, np.int64)
    for v in range(ranges.shape[0]):
        last_row = np.int64(ranges[v, 0]) + ranges[v, 1]
        for block in range(firsts[v], firsts[v + 1]):
            rows, code = min(starts[block + 1], last_row) - starts[block], np.int64(codes[block])
            begins[block], rows_from[block] = begin, rows_begin(code, begin, rows, width)
            bits[block] = row_bits(code, width)
            if code & 15 == RARE:
                read[block], masks[block] = firsts[v], 0
            begin += block_bytes(code, rows, width)
    return begins, rows_from, bits, read, masks


@compiled
def _find(ids, first, period, count, vocabulary, search, laid, payload, places, found, held):
    """Blocks of ids of one vocabulary and their places within; ``held`` counts the ids of every block.

    Returns how many were found before one that is outside.
    """
    (first_row, size, begun, first_step), starts = vocabulary, search[0]
    _, rows_from, bits, read, masks = laid
    for k in range(count):
        own = ids[np.uint64(first + k * period)]
        if np.uint64(own) >= size:  # or negative
            return k
        row, block, step = own + first_row, begun[np.uint64(bit_length(own))], first_step
        while step > 0:
            block += step if starts[np.uint64(block + step)] <= row else 0
            step >>= 1
        place = (row - starts[np.uint64(block)]) & masks[np.uint64(block)]
        block = read[np.uint64(block)]
        prefetch_element(payload, rows_from[np.uint64(block)] + (place * bits[np.uint64(block)] >> 3))
        places[k], found[k] = place, block
        held[np.uint64(block)] += 1
    return count


@compiled
def _sort(count, stride, found, places, own, runs):
    """Places in order of block, and how far from the first each vector goes. ``held`` becomes the ends of runs."""
    (held, sorted_places, targets), end = runs, 0
    for block in range(own[0], own[1]):
        end, held[block] = end + held[block], end
    for k in range(count):
        block = found[k]
        to = np.uint64(held[block])
        held[block] += 1
        sorted_places[to], targets[to] = places[k], k * stride


@compiled
def _decode(codes, source, laid, own, runs, out, width, scratch):
    """The runs of the blocks ``own[0] .. own[1] - 1``, whose ends become zeros again."""
    (begins, rows_from, _, _, _), (held, places, targets), start = laid, runs, 0
    for block in range(own[0], own[1]):
        end, held[block] = held[block], 0
        if end > start:
            run, code = (places[start:end], targets[start:end]), np.int64(codes[block])
            decode_run(source, begins[block], rows_from[block], code, run[0], end - start, run[1], out, width, scratch)
        start = end


@compiled
def _lookup(start, end, ids, columns, ranges, codes, payload, copied, search, laid, out, outside):
    width, period, (_, firsts, steps, begun) = out.shape[1], columns.size, search
    most = max(min(_TILE_FLOATS // width, end - start) // period, 1)
    places, sorted_places, targets = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    found, held = np.empty(most, np.uint32), np.zeros(codes.size, np.int64)
    scratch = np.empty(scratch_bytes(width), np.uint8)
    source = source_of(payload, copied)
    for tile in range(start, end, most * period):
        for first in range(tile, min(tile + period, end)):
            column, count = columns[first % period], min((end - first - 1) // period + 1, most)
            vocabulary = (np.int64(ranges[column, 0]), np.uint64(ranges[column, 1]), begun[column], steps[column])
            known = _find(ids, first, period, count, vocabulary, search, laid, payload, places, found, held)
            if known < count:
                outside[1] = ids[first + known * period]
                outside[0] = 1
                return
            own, runs = (firsts[column], firsts[column + 1]), (held, sorted_places, targets)
            _sort(count, 4 * width * period, found, places, own, runs)
            _decode(codes, source, laid, own, runs, out.ctypes.data + 4 * first * width, width, scratch.ctypes.data)


@parallel
def lookup(threads, ids, columns, ranges, blocks, codes, payload, out, outside):
    """Vectors of ids.

    Args:
        ids: int64 [n].
        columns: int64 [m], m divides n: index of the vocabulary of ids ``i``, ``i + m``, ...
        ranges: int [V, 2]: first row and number of rows of every vocabulary.
        blocks: int [blocks, 2]: first row; what follows is not read.
        codes: int16 [blocks].
        payload: uint8.
        out: fp32 [n, D]: filled.
        outside: int64 [2]: becomes (1, id) if an id is not in its vocabulary; ``out`` is then undefined.
    """
    search = _searched(ranges, blocks)
    laid = _laid(ranges, codes, search[0], search[1], out.shape[1])
    copied = end_of(payload)
    for thread in prange(threads):
        start, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
        _lookup(start, end, ids, columns, ranges, codes, payload, copied, search, laid, out, outside)

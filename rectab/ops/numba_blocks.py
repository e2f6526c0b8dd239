"""Vectors out of blocks of packed bytes: the numba kernel of the quantized table.

A table is cut into blocks of rows, each held in one encoding (:mod:`rectab.quantize.encodings`), whose payload lies at
any byte. :mod:`rectab.tables.quantized.codes` says how an encoding is written as one integer.

Ids are sorted by block, a tile at a time: what an encoding asks for is then known before its loop over ids begins
(:mod:`rectab.ops.numba_block_rows`), and no branch within the loop depends on the id.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit, prange

from rectab.jit import compiled, parallel
from rectab.ops.numba_block_rows import AHEAD, RARE, decode, rows_of
from rectab.ops.numba_vectors import LANES

__all__ = ["lookup"]

_TILE = 4096  # ids at a time, and _PER_BLOCK for every block
_PER_BLOCK = 32

inlined = njit(forceinline=True, error_model="numpy")


@compiled
def _index(ranges, blocks, codes, width):
    """What a lookup asks of the blocks.

    Returns:
        firsts int64 [V]: the first block of every vocabulary; depth: steps of :func:`_find`; starts int64: first row of
        every block and, behind them, as many as :func:`_find` may read; coded, bits int64 [blocks]:
        :func:`~rectab.ops.numba_block_rows.rows_of`.
    """
    num_blocks, total, most, block = blocks.shape[0], ranges[-1, 0] + ranges[-1, 1], 0, 0
    firsts = np.empty(ranges.shape[0], np.int64)
    for v in range(ranges.shape[0]):
        while blocks[block, 0] < ranges[v, 0]:
            block += 1
        firsts[v] = block
    for v in range(firsts.size):
        most = max(most, (firsts[v + 1] if v + 1 < firsts.size else num_blocks) - firsts[v])
    depth = 0
    while 1 << depth < most:
        depth += 1
    starts = np.full(num_blocks + (1 << depth), total, np.int64)
    coded, bits = np.empty(num_blocks, np.int64), np.empty(num_blocks, np.int64)
    for block in range(num_blocks):
        starts[block] = blocks[block, 0]
        rows = (blocks[block + 1, 0] if block + 1 < num_blocks else total) - blocks[block, 0]
        coded[block], bits[block] = rows_of(np.int64(codes[block]), np.int64(blocks[block, 1]), rows, width)
    return firsts, depth, starts, coded, bits


@inlined
def _find(place, block, depth, starts):
    """The last block that starts at or before a row, from the first of its vocabulary on; no branch on the row."""
    for k in range(depth - 1, -1, -1):
        block += np.int64(starts[block + (1 << k)] <= place) << k
    return block


@compiled
def _lookup(start, end, ids, columns, ranges, blocks, codes, payload, index, out, outside):
    firsts, depth, starts, coded, bits = index
    period, num_blocks = columns.size, blocks.shape[0]
    padded = (out.shape[1] + LANES - 1) // LANES * LANES
    steps, entries = np.zeros((1, padded), np.float32), np.empty(2 * padded, np.uint8)
    tile = max(min(_TILE + _PER_BLOCK * num_blocks, end - start), 1)
    found, drawn, ends = np.empty(tile, np.int32), np.empty(tile, np.int64), np.empty(num_blocks, np.int64)
    order, where, at = np.empty(tile, np.int32), np.zeros(tile + AHEAD, np.int64), start % period
    for first in range(start, end, tile):
        count = min(tile, end - first)
        ends[:] = 0
        for i in range(count):
            column, place = columns[at], ids[first + i]
            at = at + 1 if at + 1 < period else 0
            if place < 0 or place >= ranges[column, 1]:
                outside[1] = place
                outside[0] = 1
                return
            place += ranges[column, 0]
            block = _find(place, firsts[column], depth, starts)
            if codes[block] & 15 == RARE:
                place, block = np.int64(ranges[column, 0]), firsts[column]
            found[i], drawn[i] = block, coded[block] * 8 + (place - starts[block]) * bits[block]
            ends[block] += 1
        begun = 0
        for block in range(num_blocks):
            held = ends[block]
            ends[block] = begun
            begun += held
        for i in range(count):
            to = ends[found[i]]
            order[to], where[to] = i, drawn[i]
            ends[found[i]] = to + 1
        begun = 0
        for block in range(num_blocks):
            span = (begun, ends[block])
            begun = ends[block]
            if span[0] < span[1]:
                code, begin = np.int64(codes[block]), np.int64(blocks[block, 1])
                decode(payload, begin, coded[block], code, span, where, order, steps, entries, out, first)


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
    index = _index(ranges, blocks, codes, out.shape[1])
    for thread in prange(threads):
        start, end = thread * ids.size // threads, (thread + 1) * ids.size // threads
        _lookup(start, end, ids, columns, ranges, blocks, codes, payload, index, out, outside)

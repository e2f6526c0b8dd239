"""Served forms looked up in numba: rows that ids are hashed to, and rows that hold some dimensions of their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rectab.ops import numba_compact as compact_kernels
from rectab.ops import numba_rows as row_kernels
from rectab.ops.numba_support import as_array, flat_rows, launch_lookup, thread_count
from rectab.ops.numba_vectors import LANES

__all__ = ["gather_hashed", "gather_ragged"]


def gather_hashed(weight: Tensor, ids: Tensor, salts: Tensor, bases: Tensor, num_rows: int) -> Tensor:
    """The rows that ids are hashed to, in one pass.

    Args:
        weight: fp32 [N, width].
        ids: int64 [*].
        salts: int64 [period, chunks], for the ids 0, 1, ... of all, modulo the period.
        bases: int64 of the same shape: the first of the ``num_rows`` rows that are hashed into.

    Returns:
        fp32 [*, chunks * width].
    """
    flat, (period, chunks) = flat_rows(ids), salts.shape
    columns = np.arange(period + row_kernels.BLOCK) % period
    tiled = (np.ascontiguousarray(each.numpy().T[:, columns]) for each in (salts, bases))
    out = torch.empty(flat.size, chunks * weight.shape[1])
    threads = thread_count(out.numel())
    launch_lookup(row_kernels.gather_hashed, threads, as_array(weight), flat, *tiled, num_rows, out.numpy())
    return out.view(*ids.shape, out.shape[1])


def gather_ragged(
    group: Tensor,
    position: Tensor,
    kept: Tensor,
    groups: Sequence[tuple[Tensor, int, int]],
    dimensions: tuple[tuple[int, ...], ...],
    row_dim: int,
) -> Tensor:
    """Rows that hold some dimensions of their vectors; the others are zero.

    Args:
        group, position: int64 [*], of a row, and its place in the group.
        kept: bool [*]; false gives zeros, wherever the row would be.
        groups: for every group the fp32 rows it lies in, which of them is its first, and how many it has.
        dimensions: of every group: those that its rows hold, ascending.
        row_dim: D.

    Returns:
        fp32 [*, D]. Raises IndexError for a row outside its group.
    """
    out, outside = torch.empty(group.numel(), row_dim), np.zeros(2, dtype=np.int64)
    layout = [(rows.data_ptr() + 4 * first * rows.shape[1], rows.shape[1], count) for rows, first, count in groups]
    columns = (np.ascontiguousarray(column) for column in np.array(layout, np.int64).T)
    told = (*columns, *_bits_of(dimensions, row_dim))
    arrays = (flat_rows(group), flat_rows(position), kept.reshape(-1).contiguous().numpy(), told)
    launch_lookup(compact_kernels.gather_ragged, thread_count(out.numel()), *arrays, out.numpy(), outside)
    if outside[0]:
        raise IndexError(f"row {int(outside[1])} is outside its group")
    return out.view(*group.shape, row_dim)


@lru_cache(maxsize=64)
def _bits_of(dimensions: tuple[tuple[int, ...], ...], row_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 [G, blocks]: a bit for each of 16 dimensions that a group holds; int64 [G, blocks]: how many)."""
    held = np.zeros((len(dimensions), -(-row_dim // LANES), LANES), np.uint64)
    for flat, those in zip(held.reshape(len(dimensions), -1), dimensions, strict=True):
        flat[list(those)] = 1
    return (held << np.arange(LANES, dtype=np.uint64)).sum(-1, dtype=np.uint64), held.sum(-1).astype(np.int64)

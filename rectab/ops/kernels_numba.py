"""The row kernels for CPU in numba; the functions of :mod:`rectab.ops.kernels_torch`, and those of update rules.

Parallel without atomics: a thread owns the rows whose hash falls into its share, so no row is written by two. Sums run
in the order of the lookups whatever the number of threads, so a result does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import local

import numpy as np
import torch
from torch import Tensor

from rectab.ops import numba_bags as bag_kernels
from rectab.ops import numba_coded as coded_kernels
from rectab.ops import numba_fused as fused_kernels
from rectab.ops import numba_rows as row_kernels
from rectab.ops.numba_optim import (
    adagrad_refresh,
    adagrad_update,
    adam_refresh,
    adam_update,
    sgd_refresh,
    sgd_update,
)
from rectab.ops.numba_served import gather_hashed, gather_ragged
from rectab.ops.numba_support import as_array, flat_rows, launch, launch_lookup, raise_if_outside, thread_count

__all__ = [
    "adagrad_refresh",
    "adagrad_update",
    "adam_refresh",
    "adam_update",
    "address",
    "coalesce",
    "coded_gather",
    "fused_gather",
    "gather",
    "gather_hashed",
    "gather_ragged",
    "norm",
    "segment_dot",
    "segment_sum",
    "sgd_refresh",
    "sgd_update",
    "spread_bags",
]


def address(ids: Tensor, repeat: int, salt: Tensor, first_row: Tensor, num_rows: Tensor) -> Tensor:
    """Rows of ids: hashed into ranges, or one row an id.

    Args:
        ids: int64 [n], contiguous.
        repeat: every id is used this many times in a row.
        salt, first_row, num_rows: int64 [period], for the outputs 0, 1, ... modulo the period; see
            :func:`rectab.ops.hashing.address_rows`.

    Returns:
        int64 [n * repeat].
    """
    out = torch.empty(ids.numel() * repeat, dtype=torch.int64)
    outside = np.zeros(2, dtype=np.int64)
    threads = thread_count(out.numel())
    arrays = (ids.numpy(), repeat, salt.numpy(), first_row.numpy(), num_rows.numpy(), out.numpy(), outside)
    launch_lookup(row_kernels.address, threads, *arrays)
    if outside[0]:
        raise IndexError(f"id {int(outside[1])} is outside its vocabulary")
    return out


def gather(weight: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, D], int64 [*] -> [*, D] of ``dtype``. Raises IndexError for a row outside the store."""
    flat = flat_rows(rows)
    out = torch.empty(flat.size, weight.shape[1], dtype=dtype if dtype == weight.dtype else _computed_in(weight))
    source = as_array(weight)
    outside = np.zeros(2, dtype=np.int64)
    launch_lookup(row_kernels.gather, thread_count(out.numel()), source, flat, as_array(out), outside)
    raise_if_outside(outside, source.shape[0])
    return out.view(*rows.shape, weight.shape[1]).to(dtype)


def coded_gather(codes: Tensor, scale: Tensor, rows: Tensor, row_dim: int, bits: int, offset: float) -> Tensor:
    """Rows held as codes: int8 [N, row_dim], or uint8 streams of ``bits`` bits a code, 0 bits for ternary digits.

    Args:
        codes: [N, bytes of a row].
        scale: fp16 [N]; [1] for all rows.
        rows: int64 [*].
        row_dim: codes of a row.
        bits, offset: see :class:`rectab.ops.grids.Grid`; an offset of 0 says that 8 bits are signed.

    Returns:
        fp32 [*, row_dim]: ``(code - offset) * scale``. Raises IndexError for a row outside the store.
    """
    flat = flat_rows(rows)
    out = torch.empty(flat.size, row_dim)
    outside = np.zeros(2, dtype=np.int64)
    held = (as_array(codes.view(torch.uint8)), as_array(scale.unsqueeze(1)))
    launch_lookup(
        coded_kernels.gather_coded,
        thread_count(out.numel()),
        *held,
        bits,
        np.float32(offset),
        flat,
        out.numpy(),
        outside,
    )
    raise_if_outside(outside, codes.shape[0])
    return out.view(*rows.shape, row_dim)


def fused_gather(fused: Tensor, rows: Tensor, row_dim: int, bits: int) -> Tensor:
    """Rows uint8 [N, bytes of a row] with a scale and a bias each, see :mod:`rectab.ops.fused`.

    Args:
        fused: the rows.
        rows: int64 [*].
        row_dim: codes of a row.
        bits: of a code: 8 with fp32 numbers, 4 or 2 with halves.

    Returns:
        fp32 [*, row_dim]. Raises IndexError for a row outside the store.
    """
    flat = flat_rows(rows)
    out, outside = torch.empty(flat.size, row_dim), np.zeros(2, dtype=np.int64)
    kernel, threads = fused_kernels.gather_fused, thread_count(out.numel())
    launch_lookup(kernel, threads, as_array(fused), bits, flat, out.numpy(), outside)
    raise_if_outside(outside, fused.shape[0])
    return out.view(*rows.shape, row_dim)


def coalesce(pending: Sequence[tuple[Tensor, Tensor]], row_dim: int) -> tuple[Tensor, Tensor]:
    """Distinct rows int64 [u] and the sum of each row's gradients fp32 [u, D]."""
    flat = [flat_rows(rows) for rows, _ in pending]
    rows = flat[0] if len(flat) == 1 else np.concatenate(flat)
    if rows.size == 0:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, row_dim, dtype=torch.float32)
    if rows.size >= 2**31:
        raise ValueError(f"a step may look up at most {2**31 - 1} rows, got {rows.size}")
    threads = thread_count(rows.size * row_dim)
    owned = np.zeros(threads + 1, dtype=np.int64)
    launch(row_kernels.count_owned, threads, rows, owned)
    owned[1:] += 1
    np.cumsum(owned, out=owned)
    positions, slots, distinct = _scratch(int(owned[-1]))
    starts = np.zeros(threads + 1, dtype=np.int64)
    launch(row_kernels.assign_slots, threads, rows, owned, positions, slots, distinct, starts)
    np.cumsum(starts, out=starts)
    out_rows = torch.empty(int(starts[-1]), dtype=torch.int64)
    sums = torch.empty(int(starts[-1]), row_dim, dtype=torch.float32)
    cursor, filled = owned[:-1].copy(), np.zeros(threads, dtype=np.int64)
    begin = 0
    for part, (_, gradients) in zip(flat, pending, strict=True):
        source = gradients if gradients.dtype in (torch.float32, torch.bfloat16, torch.float16) else gradients.float()
        launch(
            row_kernels.add_gradients,
            threads,
            (begin, begin + part.size),
            as_array(source),
            (owned, positions, slots, distinct, starts),
            cursor,
            filled,
            out_rows.numpy(),
            sums.numpy(),
        )
        begin += part.size
    return out_rows, sums


def norm(sums: Tensor) -> Tensor:
    """See :func:`rectab.ops.kernels_torch.norm`: by the threads whose caches the sums are in."""
    squares = np.empty(-(-sums.shape[0] // row_kernels.SUMMED_ROWS))
    launch_lookup(row_kernels.square_sums, thread_count(sums.numel()), sums.numpy(), squares)
    return torch.tensor(math.sqrt(squares.sum()))


_held = local()
_SMALL = 1 << 16  # elements that are kept whatever is asked for


def _scratch(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32, int32 and int64 [count], undefined, kept for the next call of this thread: memory that is asked for anew
    in every step is mapped and cleared anew."""
    arrays: tuple[np.ndarray, ...] = getattr(_held, "arrays", ())
    if not arrays or not count <= arrays[0].size <= 4 * count + _SMALL:
        room = count + count // 8
        _held.arrays = arrays = tuple(np.empty(room, dtype) for dtype in (np.int32, np.int32, np.int64))
    positions, slots, distinct = (array[:count] for array in arrays)
    return positions, slots, distinct


_NO_WEIGHTS = {dtype: np.empty(0, dtype=dtype) for dtype in (np.float32, np.float64)}


def _offset_array(offsets: Tensor, count: int) -> np.ndarray:
    """Raises ValueError unless ``offsets`` rise from 0 to ``count``: a kernel would read outside its arrays."""
    array = offsets.detach().to(torch.int64).contiguous().numpy()
    if array.size == 0 or array[0] != 0 or array[-1] != count or (np.diff(array) < 0).any():
        raise ValueError(f"offsets must rise from 0 to the number of values, {count}")
    return array


def _computed_in(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _weight_array(weights: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    empty = _NO_WEIGHTS[np.float64 if dtype == torch.float64 else np.float32]
    return empty if weights is None else as_array(weights.to(dtype))


def segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    """[n, D], int64 [B + 1], [n] or None -> [B, D]; sums in fp32 where values are halves."""
    dtype = _computed_in(values)
    out = torch.empty(offsets.numel() - 1, values.shape[1], dtype=dtype)
    arrays = (as_array(values), _offset_array(offsets, values.shape[0]), _weight_array(weights, dtype), out.numpy())
    launch_lookup(bag_kernels.segment_sum, thread_count(values.numel()), *arrays)
    return out.to(values.dtype)


def spread_bags(vectors: Tensor, offsets: Tensor, count: int, weights: Tensor | None) -> Tensor:
    """[B, D], int64 [B + 1], [count] or None -> [count, D]: the bag's vector, times the value's weight."""
    dtype = vectors.dtype if weights is None else _computed_in(vectors)
    out = torch.empty(count, vectors.shape[1], dtype=dtype)
    threads, bags = thread_count(out.numel()), _offset_array(offsets, count)
    if weights is None:
        launch_lookup(bag_kernels.spread_bags, threads, as_array(vectors), bags, as_array(out))
    else:
        arrays = (as_array(vectors), bags, _weight_array(weights, dtype), out.numpy())
        launch(bag_kernels.spread_weighted, threads, *arrays)
    return out.to(vectors.dtype)


def segment_dot(vectors: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """[B, D], int64 [B + 1], [n, D] -> [n]: the product of every value with its bag's vector."""
    out = torch.zeros(values.shape[0], dtype=_computed_in(values))
    if values.shape[1]:
        arrays = (as_array(vectors), _offset_array(offsets, values.shape[0]), as_array(values), out.numpy())
        launch(bag_kernels.segment_dot, thread_count(values.numel()), *arrays)
    return out

"""The row kernels for CUDA in triton; the functions of :mod:`rectab.ops.kernels_torch`, and those of update rules.

An index outside its range raises IndexError under triton's interpreter; on CUDA it trips a device-side assertion, as
torch's own lookups do, since raising at once would make every lookup wait for the device.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from rectab.ops import triton_rows
from rectab.ops.dispatch import holds
from rectab.ops.kernels_torch import norm
from rectab.ops.triton_blocks import lookup_blocks
from rectab.ops.triton_coded import coded_gather, fused_gather, whole_gather
from rectab.ops.triton_encode import coded_write
from rectab.ops.triton_encode_fused import fused_write
from rectab.ops.triton_optim import (
    adagrad_refresh,
    adagrad_update,
    adam_refresh,
    adam_update,
    sgd_refresh,
    sgd_update,
)
from rectab.ops.triton_sums import coalesce
from rectab.ops.triton_support import BLOCK_ELEMENTS, blocks_of, check_inside, launch

__all__ = [
    "adagrad_refresh",
    "adagrad_update",
    "adam_refresh",
    "adam_update",
    "address",
    "coalesce",
    "coded_gather",
    "coded_write",
    "fused_gather",
    "fused_write",
    "gather",
    "norm",
    "packed_lookup",
    "segment_dot",
    "segment_sum",
    "sgd_refresh",
    "sgd_update",
    "spread_bags",
    "whole_gather",
]


def address(ids: Tensor, repeat: int, salt: Tensor, first_row: Tensor, num_rows: Tensor) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.address`."""
    out = torch.empty(ids.numel() * repeat, dtype=torch.int64, device=ids.device)
    outside = torch.zeros((), dtype=torch.int32, device=ids.device)
    blocks = {"BLOCK": BLOCK_ELEMENTS}
    arguments = (ids, repeat, salt, first_row, num_rows, salt.numel(), out, outside, out.numel())
    launch(triton_rows.address, out.numel(), blocks, *arguments)
    check_inside(outside, "an id")
    return out


def gather(weight: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, D], int64 [*] -> [*, D] of ``dtype``."""
    flat = rows.reshape(-1).to(torch.int64).contiguous()
    row_dim = weight.shape[1]
    out = torch.empty(flat.numel(), row_dim, dtype=dtype, device=weight.device)
    outside = torch.zeros((), dtype=torch.int32, device=weight.device)
    arguments = (weight.detach().contiguous(), weight.shape[0], row_dim, flat, flat.numel(), out, outside)
    launch(triton_rows.gather, flat.numel(), blocks_of(row_dim), *arguments)
    check_inside(outside, "a row")
    return out.view(*rows.shape, row_dim)


def packed_lookup(ids: Tensor, vocabulary: Tensor, held: tuple[Tensor, Tensor, Tensor, Tensor], row_dim: int) -> Tensor:
    """int64 [*] ids and their vocabularies, ``held`` as in :func:`rectab.ops.triton_blocks.lookup_blocks` -> [*, D]."""
    flat, own = (t.reshape(-1).to(torch.int64).contiguous() for t in (ids, vocabulary.expand(ids.shape)))
    out, outside = lookup_blocks(flat, own, *held, row_dim)
    check_inside(outside, "an id")
    return out.view(*ids.shape, row_dim)


def segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.segment_sum`; fp32, bf16 or fp16."""
    offsets, values = _offsets(offsets, values.shape[0]), values.contiguous()
    row_dim = values.shape[1]
    out = torch.empty(offsets.numel() - 1, row_dim, dtype=torch.float32, device=values.device)
    shares = values if weights is None else weights.float().contiguous()
    arguments = (values, row_dim, offsets, shares, out)
    _launch_segments(triton_rows.segment_sum, offsets, row_dim, *arguments, WEIGHTED=weights is not None)
    return out.to(values.dtype)


def spread_bags(vectors: Tensor, offsets: Tensor, count: int, weights: Tensor | None) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.spread_bags`; fp32, bf16 or fp16."""
    offsets, vectors = _offsets(offsets, count), vectors.contiguous()
    row_dim = vectors.shape[1]
    out = torch.empty(count, row_dim, dtype=vectors.dtype, device=vectors.device)
    shares = vectors if weights is None else weights.float().contiguous()
    arguments = (vectors, row_dim, offsets, shares, out)
    _launch_segments(triton_rows.spread_bags, offsets, row_dim, *arguments, WEIGHTED=weights is not None)
    return out


def segment_dot(vectors: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """See :func:`rectab.ops.kernels_numba.segment_dot`; fp32, bf16 or fp16."""
    offsets, vectors, values = _offsets(offsets, values.shape[0]), vectors.contiguous(), values.contiguous()
    row_dim = values.shape[1]
    out = torch.zeros(values.shape[0], dtype=torch.float32, device=values.device)
    if row_dim:
        arguments = (vectors, row_dim, offsets, values, out)
        _launch_segments(triton_rows.segment_dot, offsets, row_dim, *arguments)
    return out


def _launch_segments(kernel: Any, offsets: Tensor, row_dim: int, *arguments: Any, **options: Any) -> None:
    """One program for every segment between two ``offsets``."""
    if offsets.numel() > 1:
        blocks = {"BLOCK": 32, "WIDTH": triton.next_power_of_2(row_dim)}
        kernel[(offsets.numel() - 1,)](*arguments, **options, **blocks)


def _offsets(offsets: Tensor, count: int) -> Tensor:
    offsets = offsets.detach().to(torch.int64).contiguous()
    good = (offsets[:1] == 0).all() & (offsets[-1:] == count).all() & (offsets.diff() >= 0).all()
    if not offsets.numel() or not holds(good):
        raise ValueError(f"offsets must rise from 0 to the number of values, {count}")
    return offsets

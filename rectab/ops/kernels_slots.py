"""The slot map on the CPU in numba; the functions of :mod:`rectab.ops.slots_reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectab.ops import numba_slots
from rectab.ops.numba_support import launch_lookup, thread_count

if TYPE_CHECKING:
    from rectab.ops.slots import SlotRule, SlotState

__all__ = ["find", "take"]

_WORK = 16  # elements of other kernels that an id is as much work as


def find(
    ids: Tensor, columns: Tensor, blocks: tuple[np.ndarray, ...], identities: Tensor, max_probe: int, shared: bool
) -> Tensor:
    """int64 [n] ids, int64 [p] vocabularies -> int64 [n] rows, see :func:`rectab.ops.slots.find_rows`."""
    out = torch.empty(ids.numel(), dtype=torch.int64)
    outside = np.zeros(2, dtype=np.int64)
    arrays = (ids.contiguous().numpy(), columns.contiguous().numpy(), blocks, identities.numpy(), max_probe, shared)
    launch_lookup(numba_slots.find, thread_count(ids.numel() * _WORK), *arrays, out.numpy(), outside)
    if outside[0]:
        raise IndexError(f"id {int(outside[1])} is outside its vocabulary")
    return out


def take(
    ids: Tensor, columns: Tensor, blocks: tuple[np.ndarray, ...], state: SlotState, rule: SlotRule
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows [n], rows admitted [m], ids replaced [m]), see :func:`rectab.ops.slots.take_rows`."""
    flat, period = ids.contiguous().numpy(), columns.contiguous().numpy()
    wrong = numba_slots.outside_whole(flat, period, blocks[1])
    if wrong >= 0:
        raise IndexError(f"id {int(flat[wrong])} is outside its vocabulary")
    rows, missing, admitted, replaced = np.empty((4, flat.size), np.int64)
    *codes, decay = rule.codes
    made = numba_slots.take(
        *(flat, period, blocks, tuple(tensor.numpy() for tensor in state.tensors())),
        *(tuple(np.int64(code) for code in codes), float(decay), np.int64(rule.salt)),
        *(rows, np.empty(flat.size, np.uint64), missing, admitted, replaced),
    )
    return torch.from_numpy(rows), torch.from_numpy(admitted[:made]), torch.from_numpy(replaced[:made])

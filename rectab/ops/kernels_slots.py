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
    rows = find(ids, columns, blocks, state.identities, rule.max_probe, False)
    most = int((rows < 0).sum())
    admitted, replaced = np.empty(most, np.int64), np.empty(most, np.int64)
    *codes, decay = rule.codes
    arrays = tuple(tensor.numpy() for tensor in state.tensors())
    given = (ids.contiguous().numpy(), columns.contiguous().numpy(), blocks, arrays)
    made = numba_slots.take(
        *given,
        tuple(np.int64(code) for code in codes),
        float(decay),
        np.int64(rule.salt),
        rows.numpy(),
        admitted,
        replaced,
    )
    return rows, torch.from_numpy(admitted[:made]), torch.from_numpy(replaced[:made])

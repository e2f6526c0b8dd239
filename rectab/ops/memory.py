"""Memory for rows that are read at random: on pages large enough that addresses need not be looked up at every row.

With 4 KiB pages nearly every row of a large table costs a walk of the page table besides its own cache misses; at 10^7
rows of 64 bytes that is more than half of a step. Linux gives 2 MiB pages to memory that asks for them.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rectab.ops.mapped import active_files

__all__ = ["empty_rows", "filled_rows", "holds_rows"]

_HUGE_PAGE = 2 << 20


def empty_rows(*shape: int, dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
    """As ``torch.empty``; on the CPU under Linux the system is asked for huge pages. While files are active
    (:mod:`rectab.ops.mapped`), it lies in one of them."""
    files = active_files()
    if files is not None and torch.device(device or "cpu").type == "cpu":
        return files.empty(*shape, dtype=dtype)
    rows = torch.empty(*shape, dtype=dtype, device=device)
    size = rows.numel() * rows.element_size()
    advise = _madvise()
    if rows.device.type == "cpu" and type(rows) is Tensor and size >= 2 * _HUGE_PAGE and advise is not None:
        start = -(-rows.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        end = (rows.data_ptr() + size) // _HUGE_PAGE * _HUGE_PAGE
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
    return rows


def filled_rows(*shape: int, dtype: torch.dtype, device: torch.device | str | None = None, value: float = 0) -> Tensor:
    """:func:`empty_rows` filled with ``value``, unless they lie in a file that was opened again."""
    rows = empty_rows(*shape, dtype=dtype, device=device)
    return rows if holds_rows(rows) or (value == 0 and active_files() is not None) else rows.fill_(value)


def holds_rows(tensor: Tensor) -> bool:
    """Whether a tensor that was just allocated holds what was written to its file before."""
    files = active_files()
    return files is not None and files.reopened and files.owns(tensor)


@cache
def _madvise() -> Callable[..., Any] | None:
    """The system's ``madvise``, or None where there are no huge pages to ask for."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)

"""How numba kernels are launched, and how tensors reach them.

Kernels run on as many threads as torch's operators do (``torch.set_num_threads``), from any thread of the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["as_array", "flat_rows", "launch", "launch_lookup", "raise_if_outside", "rows_array", "thread_count"]

_SERIAL_ELEMENTS = 1 << 14
_config: Any = numba.config
_lock = threading.Lock()
_started = False  # whether numba's threads are


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as numba sees it: contiguous; bf16 as uint16, fp16 as int16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    if tensor.dtype == torch.float16:
        return tensor.view(torch.int16).numpy()
    return tensor.numpy()


def rows_array(tensor: Tensor) -> np.ndarray:
    """Rows or state that a kernel writes to: as :func:`as_array`, never a copy, whose changes would be lost."""
    if not tensor.is_contiguous():
        raise ValueError(f"rows and their state must be contiguous, got strides {tensor.stride()}")
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"rows and their state must be fp32, bf16 or fp16, got {tensor.dtype}")
    return as_array(tensor)


def flat_rows(rows: Tensor) -> np.ndarray:
    """int [*] -> int64 [n], contiguous."""
    return rows.detach().reshape(-1).to(torch.int64).contiguous().numpy()


def raise_if_outside(outside: np.ndarray, num_rows: int) -> None:
    """Raise the IndexError that a kernel reported: ``outside`` is (whether, the row)."""
    if outside[0]:
        raise IndexError(f"row {int(outside[1])} is outside the store's 0..{num_rows - 1}")


def thread_count(elements: int) -> int:
    """Threads for a kernel that moves this many elements: torch's intra-op count, 1 for little work."""
    if elements < _SERIAL_ELEMENTS:
        return 1
    return min(torch.get_num_threads(), _config.NUMBA_NUM_THREADS)


def launch(kernel: Callable[..., Any], threads: int, *arguments: Any) -> None:
    """Run ``kernel(threads, *arguments)``.

    Kernels of one thread run side by side when several threads of the caller's launch them; of several threads, one at
    a time, since they would take each other's.
    """
    with nullcontext() if threads == 1 and _runs_beside_others() else _lock:
        _run(kernel, threads, *arguments)


def launch_lookup(kernel: Callable[..., Any], threads: int, *arguments: Any) -> None:
    """:func:`launch` for kernels that change no rows and whose output is the same on any number of threads: while the
    threads are another caller's, it runs on the caller's own instead of waiting for them."""
    if threads == 1 or not _runs_beside_others():
        launch(kernel, threads, *arguments)
    elif _lock.acquire(blocking=False):
        try:
            _run(kernel, threads, *arguments)
        finally:
            _lock.release()
    else:
        _run(kernel, 1, *arguments)


def _runs_beside_others() -> bool:
    """May a kernel of one thread run while others do?"""
    return _started and numba.threading_layer() != "workqueue"


def _run(kernel: Callable[..., Any], threads: int, *arguments: Any) -> None:
    global _started
    torch_threads = torch.get_num_threads()
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)
    kernel(threads, *arguments)
    # Numba's first launch sets the OpenMP threads that torch counts on, and with them the order of torch's sums.
    if torch.get_num_threads() != torch_threads:
        torch.set_num_threads(torch_threads)
    _started = True

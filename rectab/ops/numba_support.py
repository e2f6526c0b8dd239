"""How numba kernels are compiled, cached and launched, and how tensors reach them.

Compiled code is cached in the user's cache directory, apart for every version of these sources. Kernels run on as many
threads as torch's operators do (``torch.set_num_threads``), from any thread of the caller's.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "as_array",
    "compiled",
    "flat_rows",
    "launch",
    "parallel",
    "raise_if_outside",
    "rows_array",
    "thread_count",
]

# Reassociation lets reductions over a row use vector registers; the order stays fixed, so results are deterministic.
_COMPILE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
# Only prange is wanted of numba's parallel pass; the rest of it costs seconds of compilation.
_UNWANTED = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
_PARALLEL: dict[str, Any] = {"prange": True, **dict.fromkeys(_UNWANTED, False)}

_SERIAL_ELEMENTS = 1 << 14
_config: Any = numba.config
_lock = threading.Lock()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates what one thread of a kernel does."""
    return njit(**_COMPILE)(function)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a kernel: a prange over threads, compiled on first use and cached for later processes."""
    with _cache_directory():
        options: dict[str, Any] = {**_COMPILE, "parallel": _PARALLEL, "cache": True}
        kernel = njit(**options)(function)
    _serialize_cache_writes(kernel)
    return kernel


@contextmanager
def _cache_directory() -> Iterator[None]:
    """While a kernel is declared: its cache goes to ``$XDG_CACHE_HOME/rectab/numba-<hash of the sources>``.

    ``NUMBA_CACHE_DIR`` has precedence where it is set.
    """
    previous = _config.CACHE_DIR
    _config.CACHE_DIR = previous or str(_default_cache())
    try:
        yield
    finally:
        _config.CACHE_DIR = previous


@cache
def _default_cache() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*numba*.py")):
        digest.update(source.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rectab" / f"numba-{digest.hexdigest()[:16]}"


def _serialize_cache_writes(kernel: Any) -> None:
    """Hold a lock file while numba saves a compiled kernel.

    Numba numbers the files of a kernel's signatures by reading its index first: two processes that save at once would
    give two signatures one file, and a third would then run code of the wrong signature.
    """
    cache_of_kernel: Any = getattr(kernel, "_cache", None)
    if fcntl is None or not hasattr(cache_of_kernel, "save_overload"):
        return
    save = cache_of_kernel.save_overload

    def locked_save(*arguments: Any) -> None:
        directory = Path(cache_of_kernel.cache_path)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            save(*arguments)

    cache_of_kernel.save_overload = locked_save


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
    """Run ``kernel(threads, *arguments)``; one launch at a time, since not every threading layer allows more."""
    with _lock:
        torch_threads = torch.get_num_threads()
        if numba.get_num_threads() != threads:
            numba.set_num_threads(threads)
        kernel(threads, *arguments)
        # Numba's first launch sets the OpenMP threads that torch counts on, and with them the order of torch's sums.
        if torch.get_num_threads() != torch_threads:
            torch.set_num_threads(torch_threads)

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
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = [
    "COMPILE",
    "PARALLEL",
    "as_array",
    "flat_rows",
    "kernel_cache",
    "launch",
    "raise_if_outside",
    "thread_count",
]

# Reassociation lets reductions over a row use vector registers; the order stays fixed, so results are deterministic.
COMPILE: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
    "cache": True,
}
# Only prange is wanted of numba's parallel pass; the rest of it costs seconds of compilation.
PARALLEL: dict[str, Any] = {
    **COMPILE,
    "parallel": {
        "comprehension": False,
        "prange": True,
        "reduction": False,
        "inplace_binop": False,
        "setitem": False,
        "numpy": False,
        "stencil": False,
        "fusion": False,
    },
}

_SERIAL_ELEMENTS = 1 << 14
_config: Any = numba.config
_lock = threading.Lock()


@contextmanager
def kernel_cache() -> Iterator[None]:
    """While kernels are declared: numba's cache goes to ``$XDG_CACHE_HOME/rectab/numba-<hash of the sources>``.

    ``NUMBA_CACHE_DIR`` has precedence where it is set.
    """
    previous = _config.CACHE_DIR
    if not previous:
        digest = hashlib.sha256()
        for source in sorted(Path(__file__).parent.glob("*numba*.py")):
            digest.update(source.read_bytes())
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        _config.CACHE_DIR = str(base / "rectab" / f"numba-{digest.hexdigest()[:16]}")
    try:
        yield
    finally:
        _config.CACHE_DIR = previous


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as numba sees it: contiguous; bf16 as uint16, fp16 as int16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    if tensor.dtype == torch.float16:
        return tensor.view(torch.int16).numpy()
    return tensor.numpy()


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
        if numba.get_num_threads() != threads:
            numba.set_num_threads(threads)
        kernel(threads, *arguments)

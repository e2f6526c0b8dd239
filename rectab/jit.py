"""How numba functions are compiled and cached: the one door through which every kernel of the package goes.

:func:`kernel` and :func:`parallel` declare what Python calls, :func:`compiled` what kernels call. Compiled code is
cached in the user's cache directory, apart for every version of the sources.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["compiled", "kernel", "parallel"]

# Reassociation lets reductions over a row use vector registers; the order stays fixed, so results are deterministic.
_COMPILE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
# Only prange is wanted of numba's parallel pass; the rest of it costs seconds of compilation.
_UNWANTED = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
_PARALLEL: dict[str, Any] = {"prange": True, **dict.fromkeys(_UNWANTED, False)}

_config: Any = numba.config


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates what kernels call; it is compiled and cached as a part of them."""
    return njit(**_COMPILE)(function)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a kernel of one thread: compiled on first use and cached for later processes."""
    return _cached(function)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a kernel with a prange over threads, to be run by :func:`rectab.ops.numba_support.launch`."""
    return _cached(function, parallel=_PARALLEL)


def _cached(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    with _cache_directory(Path(inspect.getfile(function))):
        dispatcher = njit(**_COMPILE, **options, cache=True)(function)
    _serialize_cache_writes(dispatcher)
    return dispatcher


@contextmanager
def _cache_directory(source: Path) -> Iterator[None]:
    """While a kernel is declared: its cache goes to ``$XDG_CACHE_HOME/rectab/numba-<hash of the sources>``.

    ``NUMBA_CACHE_DIR`` has precedence where it is set.
    """
    previous = _config.CACHE_DIR
    _config.CACHE_DIR = previous or str(_default_cache(source))
    try:
        yield
    finally:
        _config.CACHE_DIR = previous


@cache
def _default_cache(source: Path) -> Path:
    """Of the kernels in a file: what they call lies in it or in the ``numba`` files beside it."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted({source, *source.parent.glob("*numba*.py")}):
        digest.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rectab" / f"numba-{digest.hexdigest()[:16]}"


def _serialize_cache_writes(dispatcher: Any) -> None:
    """Hold a lock file while numba saves a compiled kernel.

    Numba numbers the files of a kernel's signatures by reading its index first: two processes that save at once would
    give two signatures one file, and a third would then run code of the wrong signature.
    """
    cache_of_kernel: Any = getattr(dispatcher, "_cache", None)
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

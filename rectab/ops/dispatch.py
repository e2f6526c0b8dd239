"""Which implementation of the row kernels runs: plain torch (reference, exports), numba (CPU) or triton (CUDA).

``auto`` chooses by device. The environment variable ``RECTAB_KERNEL`` or :func:`use_kernel` overrides ``auto``;
an explicit ``kernel=`` overrides both.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["KernelName", "find_kernel", "holds", "in_graph", "is_eager", "kernel_name", "kernels_for", "use_kernel"]

KernelName = Literal["auto", "torch", "numba", "triton"]

_override: ContextVar[KernelName | None] = ContextVar("rectab_kernel", default=None)
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


# OpenMP ends a forked child that starts a parallel kernel after its parent did; such a child uses plain torch.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernel_name(device: torch.device | str, kernel: KernelName = "auto") -> str:
    """``torch``, ``numba`` or ``triton``: what would run on ``device``, as stated in results.

    Raises:
        ValueError: an unknown name, or a kernel that does not run on ``device``.
    """
    kind = torch.device(device).type
    if kernel == "auto":
        kernel = _override.get() or os.environ.get("RECTAB_KERNEL", "auto")  # type: ignore[assignment]
    if kernel not in get_args(KernelName):
        raise ValueError(f"kernel must be one of {get_args(KernelName)}, got {kernel!r}")
    if kernel == "auto":
        kernel = "numba" if kind == "cpu" else "triton" if kind == "cuda" and _has_triton() else "torch"
    if kernel == "numba" and kind != "cpu":
        raise ValueError(f"numba kernels run on the CPU, the rows are on {kind!r}")
    if kernel == "triton" and kind != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"triton kernels run on CUDA (or with TRITON_INTERPRET=1), the rows are on {kind!r}")
    return "torch" if kernel == "numba" and _forked else kernel


def kernels_for(device: torch.device | str, kernel: KernelName = "auto") -> Any:
    """The module of kernels that runs on ``device``; see :func:`kernel_name`."""
    return _module(kernel_name(device, kernel))


def find_kernel(
    name: str | None, what: str, device: torch.device | str, kernel: KernelName = "auto"
) -> Callable[..., Any] | None:
    """The function ``<name>_<what>`` of :func:`kernels_for`; None if it has none, so that the reference must do it."""
    return None if name is None else getattr(kernels_for(device, kernel), f"{name}_{what}", None)


@cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"rectab.ops.kernels_{name}")


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@contextmanager
def use_kernel(kernel: KernelName) -> Iterator[None]:
    """Inside, ``auto`` means ``kernel``."""
    token = _override.set(kernel)
    try:
        yield
    finally:
        _override.reset(token)


def holds(condition: Tensor) -> bool:
    """Whether a bool tensor of one element is true. On CUDA nobody waits to know: it is asserted on the device, as
    torch's own lookups do, and the answer is True."""
    if condition.is_cuda:
        torch._assert_async(condition)
        return True
    return bool(condition)


def in_graph() -> bool:
    """True while a call is compiled, exported or traced rather than run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_eager(*tensors: Tensor) -> bool:
    """True if these are ordinary tensors in ordinary execution: not compiled, exported, traced, fake or transformed."""
    if in_graph() or forward_ad._current_level >= 0:
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type != "meta" for t in tensors) and not (
        torch._C._functorch.peek_interpreter_stack()
    )

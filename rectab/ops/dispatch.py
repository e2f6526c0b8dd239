"""Which implementation of the row kernels runs: plain torch, numba (CPU) or triton (CUDA)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

__all__ = ["KernelName", "Kernels", "kernels_for"]

KernelName = Literal["auto", "torch", "numba", "triton"]


@dataclass(frozen=True)
class Kernels:
    """One implementation: its name and the module of its functions."""

    name: str
    module: Any

    def __getattr__(self, function: str) -> Any:
        return getattr(self.module, function)


@cache
def _load(name: str) -> Kernels:
    return Kernels(name, importlib.import_module(f"rectab.ops.kernels_{name}"))


def kernels_for(device: torch.device, kernel: KernelName = "auto") -> Kernels:
    """The implementation that ``kernel`` asks for; ``auto`` chooses by device."""
    if kernel not in ("auto", "torch", "numba", "triton"):
        raise ValueError(f"kernel must be 'auto', 'torch', 'numba' or 'triton', got {kernel!r}")
    return _load("torch" if kernel == "auto" else kernel)

"""From a module on flat tensors to a graph that serves any number of rows and events."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["TRACED", "Graph", "never_empty", "to_pt2", "traced"]

TRACED = 8
"""Rows that a graph is traced with."""

_COMPILERS = ("g++", "clang++", "c++")

Graph = Callable[[tuple[Tensor, ...]], np.ndarray]


def traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The graph of a module whose inputs may all have any first dimension."""
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def never_empty(names: list[str], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with three events in every row: a graph that is traced without any would serve none."""
    made, lengths = dict(zip(names, inputs, strict=True)), [name for name in names if name.endswith("_lengths")]
    behaviour = 0
    for name in names:
        if name in lengths:
            made[name] = torch.full((TRACED,), 3)
            behaviour += 1
        elif behaviour:
            made[name] = made[name].new_zeros((3 * TRACED, *made[name].shape[1:]))
    return tuple(made.values())


def to_pt2(program: torch.export.ExportedProgram, draft: Path) -> tuple[str, Graph]:
    """Write a graph, compiled where there is a C++ compiler; (``aotinductor`` or ``torch.export``, what runs it)."""
    loaded: Any
    if any(shutil.which(name) for name in _COMPILERS):
        torch._inductor.aoti_compile_and_package(program, package_path=str(draft))
        kind, loaded = "aotinductor", torch._inductor.aoti_load_package(str(draft))
    else:
        torch.export.save(program, draft)
        kind, loaded = "torch.export", torch.export.load(draft).module()

    @torch.no_grad()
    def graph(inputs: tuple[Tensor, ...]) -> np.ndarray:
        return np.asarray(loaded(*inputs).detach().numpy())

    return kind, graph

"""What a rule keeps for the rows of a store, as it is held: floats, integers, or one byte an element.

State of one byte an element is held as rows of int8 are (:class:`rectab.ops.coded_formats.Int8Format`): codes, a scale
a row, rounded stochastically, so that a mean that moves by less than a step moves all the same. What is never negative
is held as its root; a root that rounds to 0 is read as one step, since steps are divided by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops.coded_formats import Int8Format
from rectab.ops.memory import filled_rows
from rectab.ops.rounding import store_rows
from rectab.optim.rule import RowRule

__all__ = ["as_held", "is_coded", "read_rows", "write_rows"]

_SCALE = ".scale"
_INT8 = Int8Format()

State = dict[str, Tensor]


def as_held(state: State) -> State:
    """The tensors that :meth:`RowRule.new_state` gives, with scales of those that are int8."""
    scales = {
        f"{key}{_SCALE}": filled_rows(len(tensor), dtype=torch.float16, device=tensor.device)
        for key, tensor in state.items()
        if tensor.dtype == torch.int8
    }
    return {**state, **scales}


def is_coded(state: State) -> bool:
    """Whether kernels cannot update it in place."""
    return any(tensor.dtype == torch.int8 for tensor in state.values())


def read_rows(state: State, rows: Tensor, rule: RowRule) -> State:
    """State of rows int64 [n], by name: floats in fp32, integers as they are, and what all rows share whole."""
    found = {}
    for key, tensor in state.items():
        if key in rule.shared:
            found[key] = tensor.float()
        elif tensor.dtype == torch.int8:
            values = _INT8.read(_coded(state, key), rows, tensor.shape[1])
            if key in rule.roots:
                least = state[key + _SCALE][rows].float().unsqueeze(1)
                values = torch.maximum(values, least).square()
            found[key] = values
        elif not key.endswith(_SCALE):
            found[key] = tensor[rows].float() if tensor.is_floating_point() else tensor[rows]
    return found


def write_rows(state: State, rows: Tensor, values: State, rule: RowRule, salt: int) -> None:
    """Hold ``values`` as of :func:`read_rows`; the n-th of them is rounded by ``salt + n``, from 1."""
    for number, (key, new) in enumerate(values.items(), start=1):
        held = state[key]
        if key in rule.shared:
            held.copy_(new)
        elif held.dtype == torch.int8:
            _INT8.write(_coded(state, key), rows, new.sqrt() if key in rule.roots else new, salt + number)
        elif held.is_floating_point():
            store_rows(held, rows, new, salt + number)
        else:
            held[rows] = new


def _coded(state: State, key: str) -> State:
    return {"codes": state[key], "scale": state[key + _SCALE]}

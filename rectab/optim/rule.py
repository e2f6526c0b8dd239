"""What an optimizer does to the rows of a step, as one function in torch.

A :class:`RowRule` gives the state of a row and a function from (values, gradients, state) to new values. Where the
implementation that runs on a device has a kernel of the rule's name, the kernel does the same, for rows held as floats
in place; where it has none, the rule itself does it. So a new optimizer is one class with one function, and gets
kernels when it has earned them. Rows that kernels do not write follow it through a copy
(:class:`rectab.optim.updater.RowCopy`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rectab.ops.memory import filled_rows
from rectab.ops.replay import Clock
from rectab.ops.step import Step

__all__ = ["RowRule", "State", "state_of_rows"]

State = dict[str, Tensor]
"""Of rows, by name."""


class RowRule:
    """An update rule of rows.

    Attributes:
        kernel: name of its fused kernels, ``<kernel>_update`` and ``<kernel>_refresh``; None without. A subclass with
            an ``update`` of its own has none unless it names them.
        held: names of tensors of the store's format that the rule changes by itself, such as the scales of rows of few
            bits: they are among the state that it is given, and are not counted as state.
        shared: names of state that all rows of a store share: tensors of any shape, which no row takes along.
        roots: names of state that is never negative, and whose root is what a step is divided by.
        counts: whether it asks how often a step looked each row up (``Step.counts``).
    """

    kernel: ClassVar[str | None] = None
    held: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()
    roots: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "update" in cls.__dict__ and "kernel" not in cls.__dict__:
            cls.kernel = None

    def around(self, rule: RowRule) -> RowRule:
        """What updates a store whose table names this rule, under an optimizer whose own is ``rule``: this one alone,
        or this one around that."""
        return self

    def new_state(self, num_rows: int, row_dim: int, dtype: torch.dtype, device: Any, replays: bool) -> State:
        """What it keeps for every row, by name: tensors whose first dimension is the rows; and what they share.

        Args:
            num_rows, row_dim: of the store.
            dtype: of what may be held in fewer bits: fp32, bf16, or int8, for which scales are added
                (:mod:`rectab.optim.row_state`).
            device: where the rows are.
            replays: whether missed steps are replayed, see :meth:`replay`.
        """
        return {}

    def update(self, values: Tensor, gradients: Tensor, state: State, step: Step) -> Tensor:
        """One step of u rows.

        Args:
            values: fp32 [u, D].
            gradients: fp32 [u, D], of the loss and the penalty.
            state: of these rows, floats in fp32; entries are replaced by what they become.
            step: learning rate and number of the step; its rows are 0..u - 1.

        Returns:
            fp32 [u, D]: the new values.
        """
        raise NotImplementedError

    def replay(self, values: Tensor, state: State, seen: Tensor, clock: Clock) -> Tensor:
        """The steps that n rows missed, in which nothing but the penalty moved them; ``decay="full"`` needs it.

        Args:
            values: fp32 [n, D].
            state: of these rows, floats in fp32; entries are replaced by what they become.
            seen: int32 [n], steps that each row has had, fewer than ``clock.now``.
            clock: what happened at each step.

        Returns:
            fp32 [n, D]: the values at ``clock.now``.
        """
        raise NotImplementedError

    @property
    def replays(self) -> bool:
        """Whether it can replay."""
        return type(self).replay is not RowRule.replay

    def check(self, lr: float, clock: Clock) -> None:
        """Before a step under ``decay="full"``: raises ValueError for a rate that it cannot replay."""


def state_of_rows(*shape: int, dtype: torch.dtype, device: Any, value: float = 0.0) -> Tensor:
    """A tensor of state for every row, filled with ``value``; nothing is allocated on the meta device. One number a row
    is never held in int8, which would need a scale for each."""
    if dtype == torch.int8 and len(shape) == 1:
        dtype = torch.float32
    if dtype == torch.int8 and value:
        raise ValueError(f"state of int8 starts at 0, not at {value}; use fp32 or bf16")
    return filled_rows(*shape, dtype=dtype, device=device, value=value)

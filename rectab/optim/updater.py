"""The rows of one store under one rule: how a step, a missed step, a move and a reset reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rectab.ops.dispatch import KernelName, find_kernel, kernel_name
from rectab.ops.formats import FloatFormat
from rectab.ops.hashing import salt_of
from rectab.ops.replay import Clock
from rectab.ops.rows import RowStore
from rectab.ops.step import Step
from rectab.optim.regimes import with_counts
from rectab.optim.row_state import as_held, is_coded, read_rows, write_rows
from rectab.optim.rule import RowRule, state_of_rows

__all__ = ["RowCopy", "RowUpdater"]


class RowUpdater:
    """Updates the rows of a store.

    Rows held as floats are written by kernels in place. Rows in other formats, and rules without a kernel, go through
    a copy. Where missed steps are replayed, rows held as floats are brought up to date, and written, when they are
    read; rows in other formats are replayed for every lookup and written with their next update, so that a row is
    rounded once a touch.

    Args:
        name: of the store.
        store: whose rows.
        rule: how they are updated.
        clock: of the optimizer.
        replays: whether rows replay the steps they were away from.
        state_dtype: of what may be held in fewer bits.
        seed: of the stochastic rounding.
        kernel: which implementation, see :mod:`rectab.ops.dispatch`.

    Attributes:
        state: by name, what the rule keeps for every row, and ``seen``, the steps that each row has had.
        before_write: called with the rows, int64 [n], that are about to be written; rows of -1 are none.
        shares: fp32 [num_rows], by how much of the decay each row is penalised; None for all of it.
    """

    def __init__(
        self,
        name: str,
        store: RowStore,
        rule: RowRule,
        clock: Clock,
        *,
        replays: bool,
        state_dtype: torch.dtype,
        seed: int,
        kernel: KernelName,
    ) -> None:
        self.name, self.store, self.rule, self.clock, self.replays = name, store, rule, clock, replays
        self.kernel: KernelName = kernel
        self._state_dtype, self._seed = state_dtype, seed
        self.state = self._fresh_state(store.num_rows)
        self.looked_up: list[Tensor] = []  # rows of lookups since the last step, where the rule asks
        self.shares: Tensor | None = None
        self.before_write: Callable[[Tensor], None] | None = None

    def _fresh_state(self, num_rows: int) -> dict[str, Tensor]:
        """What a row has before its first step, ``num_rows`` times."""
        row_dim, device = self.store.row_dim, self.store.device
        state = as_held(self.rule.new_state(num_rows, row_dim, self._state_dtype, device, self.replays))
        if self.replays:
            state["seen"] = state_of_rows(num_rows, dtype=torch.int32, device=device, value=self.clock.now)
        return state

    def take_over(self) -> None:
        """Lookups see rows as this has them; an optimizer that was there before has no say any longer."""
        self.store.before_lookup = self.store.read_as = None
        if (self.replays and self._in_place) or self.rule.counts:
            self.store.before_lookup = self._before_lookup
        if self.replays and not self._in_place:
            self.store.read_as = self._read

    def _before_lookup(self, rows: Tensor) -> None:
        if self.rule.counts and torch.is_grad_enabled() and self.store.trained:
            self.looked_up.append(rows.detach().reshape(-1))
        if self.replays and self._in_place:
            self.refresh(rows.reshape(-1))

    @property
    def _in_place(self) -> bool:
        return isinstance(self.store.format, FloatFormat)

    @property
    def held(self) -> dict[str, Tensor]:
        """By name, tensors of the store's format that the rule changes by itself."""
        return {name: self.store.tensors[name] for name in self.rule.held}

    def _tell(self, rows: Tensor) -> None:
        if self.before_write is not None:
            self.before_write(rows)

    def per_row(self) -> dict[str, Tensor]:
        """The state that belongs to rows."""
        return {key: tensor for key, tensor in self.state.items() if key not in self.rule.shared}

    def _find_kernel(self, what: str) -> Any:
        return None if is_coded(self.state) or not self._in_place else self._kernel_of(what)

    def _kernel_of(self, what: str) -> Any:
        return find_kernel(self.rule.kernel, what, self.store.device, self.kernel)

    def salt(self, what: str) -> int:
        """Of the stochastic rounding at the step that is next."""
        return salt_of(self._seed, self.name, what, self.clock.now)

    def update(self, rows: Tensor, gradients: Tensor, lr: float) -> None:
        """One step of distinct rows int64 [u] with gradients fp32 [u, D] of the loss; u may be 0.

        Rows of -1, which can only stand at the end, are none.
        """
        if rows.numel() == 0:
            return
        self._tell(rows)
        kernel = self._find_kernel("update")
        may_be_none = rows.device.type != "cpu" or kernel_name(rows.device, self.kernel) == "triton"
        if may_be_none and kernel is None:
            rows, gradients = _first_for_none(rows, gradients)
        step = Step(rows, gradients, self.shares, lr, self.clock.decay, self.clock.now + 1, self.salt("update"))
        if self.rule.counts:
            step = with_counts(step, self.looked_up)
            self.looked_up.clear()
        if kernel is not None:
            if may_be_none and self.replays:
                rows = _first_row_for_none(rows)
            if self.replays:
                self.refresh(rows)  # those that were looked up before the last step
            kernel(self.store.weight, self.state, step, self.rule)
        else:
            copy = RowCopy(self, rows)
            if self.replays:
                copy.replay()
            copy.update(step)
            copy.write(step.salt)
        if self.replays:
            self.state["seen"].index_fill_(0, rows, step.number)

    @torch.no_grad()
    def refresh(self, rows: Tensor) -> None:
        """Bring rows int64 [n], repeated or not, up to date with the clock, and write them."""
        self._tell(rows)
        kernel, salt = self._find_kernel("refresh"), self.salt("refresh")
        if kernel is not None:
            kernel(self.store.weight, self.state, rows, self.clock, salt, self.rule)
            return
        rows = torch.unique(rows[self.state["seen"][rows] < self.clock.now])
        if rows.numel():
            copy = RowCopy(self, rows)
            copy.replay()
            copy.write(salt)

    @torch.no_grad()
    def _read(self, rows: Tensor) -> Tensor:
        """int64 [*] -> float32 [*, D]: rows as they would be up to date with the clock; nothing is written."""
        flat = rows.reshape(-1)
        values = self.store.read(flat)
        behind = (self.state["seen"][flat] < self.clock.now).nonzero().squeeze(1)
        if behind.numel():
            copy = RowCopy(self, flat[behind])
            copy.replay()
            values[behind] = copy.values
        return values.view(*rows.shape, self.store.row_dim)

    def move(self, old: Tensor, new: Tensor, to: RowUpdater) -> None:
        """Rows ``new`` of ``to`` become what rows ``old`` are here: values, state and share. ``old`` stay."""
        to._tell(new)
        values = self.store.read(old)
        if to.store.format == self.store.format:
            for name, tensor in self.store.tensors.items():
                to.store.tensors[name][new] = tensor[old]
        else:
            to.store.write(new, values)
        missing = set(to.state) - set(self.state)
        if missing:
            fresh = to._fresh_state(new.numel())
        for key, tensor in to.per_row().items():
            tensor[new] = (fresh[key] if key in missing else self.state[key][old]).to(tensor.dtype)
        if to.shares is not None and self.shares is not None:
            to.shares[new] = self.shares[old]

    def reset(self, rows: Tensor, values: Tensor | None) -> None:
        """Rows start again: fresh state, the whole penalty, and ``values`` [n, D] if given."""
        self._tell(rows)
        fresh = self._fresh_state(rows.numel())
        for key, tensor in self.per_row().items():
            tensor[rows] = fresh[key]
        if self.shares is not None:
            self.shares[rows] = 1.0
        if values is not None:
            self.store.write(rows, values)


def _first_row_for_none(rows: Tensor) -> Tensor:
    """The first row in the place of rows of -1: the host need not know how many rows there are."""
    return torch.where(rows < 0, rows[:1], rows)


def _first_for_none(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """That, and its gradient, so that the first row is written the same again."""
    return _first_row_for_none(rows), torch.where((rows < 0).unsqueeze(1), gradients[:1], gradients)


class RowCopy:
    """A copy of some rows of a store and of their state, in fp32: read once, written once.

    Args:
        owner: of the rows.
        rows: int64 [n], distinct unless the copy is not written.

    Attributes:
        values: fp32 [n, D].
        state: by name; floats in fp32, integers as they are.
    """

    def __init__(self, owner: RowUpdater, rows: Tensor) -> None:
        self._owner, self._rows = owner, rows
        self.values = owner.store.read(rows)
        self.state = read_rows({**owner.state, **owner.held}, rows, owner.rule)

    def _find_kernel(self, what: str) -> Any:
        """Kernels work on a copy as on the rows themselves."""
        return find_kernel(self._owner.rule.kernel, what, self.values.device, self._owner.kernel)

    def update(self, step: Step) -> None:
        """One step of all of them."""
        kernel, rule = self._find_kernel("update"), self._owner.rule
        if kernel is not None:
            kernel(self.values, self.state, step.on_copy(), rule)
        else:
            self.values = rule.update(self.values, step.with_penalty(self.values), self.state, step.on_copy())

    def replay(self) -> None:
        """Bring them up to date with the clock."""
        seen, clock, rule = self.state["seen"], self._owner.clock, self._owner.rule
        kernel = self._find_kernel("refresh")
        if kernel is not None:
            kernel(self.values, self.state, torch.arange(seen.numel(), device=seen.device), clock, 0, rule)
            return
        behind = (seen < clock.now).nonzero().squeeze(1)
        if behind.numel():
            part = {key: t if key in rule.shared else t[behind] for key, t in self.state.items()}
            self.values[behind] = rule.replay(self.values[behind], part, seen[behind], clock)
            part["seen"] = torch.full_like(part["seen"], clock.now)
            for key, tensor in part.items():
                if key not in rule.shared:
                    self.state[key][behind] = tensor

    def write(self, salt: int) -> None:
        """Hold the copy in the store and its state: one rounding, whatever was done to it."""
        owner = self._owner
        write_rows({**owner.state, **owner.held}, self._rows, self.state, owner.rule, salt)
        self._owner.store.write(self._rows, self.values, salt)

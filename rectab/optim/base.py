"""What all row optimizers share: pending gradients, weight decay that follows the steps, state, schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rectab.ops.dispatch import KernelName, kernel_name
from rectab.ops.gathering import gather_rows
from rectab.ops.replay import Clock
from rectab.ops.rows import RowStore
from rectab.optim.rule import RowRule
from rectab.optim.updater import RowUpdater

__all__ = ["Decay", "RowOptimizer"]

Decay = Literal["full", "lazy", "minibatch"]

_STATE_DTYPES = (torch.float32, torch.bfloat16, torch.int8)  # squares of small gradients underflow in fp16
_CATCH_UP_ROWS = 1 << 20


class RowOptimizer(torch.optim.Optimizer):
    """Updates the rows that a step touched, from the gradients that row stores collected.

    It is a ``torch.optim.Optimizer`` over the handles of its stores (:mod:`rectab.ops.gradients`), so schedulers, loss
    scalers and clipping take it. State is allocated at once (also on the meta device, where it is only counted). A
    store has one optimizer: a new one takes it over.

    Weight decay is the gradient of an L2 penalty (coupled, as in ``torch.optim.Adam``), in one of three ways:

    * ``full``: ``weight_decay / 2 * ||row||^2`` over the whole table, at the batch's cost: a row that comes back first
      replays the steps it was away from (:mod:`rectab.ops.replay`), before it is read. With ``max_replay=None``
      training equals the dense optimizer's to rounding; with 32, a row that was away for 50 to 5,000 steps was off by
      at most 2.5 % of the way that decay moved it (docs/performance.md). Call :meth:`catch_up` before rows are read by
      other means than a store's ``forward``: saving, serving, copying. Rows in a format that is not one of floats are
      replayed for every lookup and written when they are next updated, so that they are rounded once a touch.
    * ``lazy``: the same penalty on the rows of the batch only.
    * ``minibatch``: DIN's mini-batch aware penalty (Zhou et al., KDD 2018, section 5.1):
      ``weight_decay / row_counts * row`` once for every distinct row of the batch.

    Args:
        stores: (name, store) of every row store, as from ``EmbeddingTable.row_stores()``.
        rule: how rows are updated.
        lr: learning rate; schedulers change it in the parameter group.
        rules: by store name, rules of stores that do not follow ``rule``, as from ``EmbeddingTable.rules()``.
        weight_decay: L2 coefficient, at least 0.
        decay: which rows feel it, see above.
        row_counts: for ``minibatch``: by store name, int or float [num_rows], how often each row occurs in training.
        max_replay: for ``full``: missed steps replayed one by one; the rest goes in closed form; None replays all.
        state_dtype: of moments and squares: fp32, bf16, or int8 with an fp16 scale a row.
        seed: of the stochastic rounding of rows held in fewer bits than fp32, and of such state.
        kernel: ``auto``, ``torch``, ``numba`` or ``triton``, see :mod:`rectab.ops.dispatch`.

    Raises:
        ValueError: an option is out of range, or a store does not collect row gradients.
    """

    def __init__(
        self,
        stores: Iterable[tuple[str, RowStore]],
        rule: RowRule,
        lr: float,
        *,
        rules: Mapping[str, RowRule] | None = None,
        weight_decay: float = 0.0,
        decay: Decay = "full",
        row_counts: Mapping[str, Tensor] | None = None,
        max_replay: int | None = 32,
        state_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        kernel: KernelName = "auto",
    ) -> None:
        self.stores = dict(stores)
        self.decay: Decay = decay
        self.kernel: KernelName = kernel
        self.clock = Clock(weight_decay, -1 if max_replay is None else max_replay)
        self._check(lr, weight_decay, max_replay, state_dtype)
        self._check_rules(rule, rules or {})
        # One group, also of no rows: a table may have none, and the loop around it need not know.
        anchors = [s.anchor for s in self.stores.values()]
        super().__init__([{"params": anchors}], {"lr": lr, "weight_decay": weight_decay})
        options: Any = {"replays": self._decays("full"), "state_dtype": state_dtype, "seed": seed, "kernel": kernel}
        self.rows = {
            name: RowUpdater(name, store, (rules or {}).get(name, rule).around(rule), self.clock, **options)
            for name, store in self.stores.items()
        }
        if self._decays("minibatch"):
            self._set_shares(row_counts)
        for rows in self.rows.values():
            rows.take_over()
            rows.store.gradients.optimizer = self

    def _check(self, lr: float, weight_decay: float, max_replay: int | None, state_dtype: torch.dtype) -> None:
        for name, store in self.stores.items():
            if store.gradient != "row":
                raise ValueError(f"row store {name!r} has gradient={store.gradient!r}; use a torch optimizer for it")
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must be at least 0, got lr={lr}, weight_decay={weight_decay}")
        if self.decay not in ("full", "lazy", "minibatch"):
            raise ValueError(f"decay must be 'full', 'lazy' or 'minibatch', got {self.decay!r}")
        if max_replay is not None and max_replay < 0:
            raise ValueError(f"max_replay must be at least 0 or None, got {max_replay}")
        if state_dtype not in _STATE_DTYPES:
            raise ValueError(f"state_dtype must be one of {_STATE_DTYPES}, got {state_dtype}")

    def _check_rules(self, rule: RowRule, rules: Mapping[str, RowRule]) -> None:
        unknown = sorted(set(rules) - set(self.stores))
        if unknown:
            raise ValueError(f"rules for {unknown}, but the row stores are {sorted(self.stores)}")
        for one in (rule, *(named.around(rule) for named in rules.values())):
            if self._decays("full") and not one.replays:
                raise ValueError(f"the rule {type(one).__name__} cannot replay steps; use decay='lazy'")

    def _check_decay(self, group: Mapping[str, Any]) -> None:
        if float(group["weight_decay"]) != self.clock.decay:
            raise ValueError(
                f"weight_decay of a row optimizer stays what it was made with, {self.clock.decay}: rows that come back "
                f"replay their steps with it; it was set to {group['weight_decay']}. Make a new optimizer"
            )

    def _decays(self, how: Decay) -> bool:
        return self.clock.decay > 0.0 and self.decay == how

    def _set_shares(self, row_counts: Mapping[str, Tensor] | None) -> None:
        for name, rows in self.rows.items():
            counts = None if row_counts is None else row_counts.get(name)
            if counts is None or counts.shape != (rows.store.num_rows,):
                raise ValueError(f"decay='minibatch' needs row_counts[{name!r}] of shape ({rows.store.num_rows},)")
            rows.shares = 1.0 / counts.to(rows.store.device, torch.float32).clamp(min=1.0)

    def kernel_of(self, name: str) -> str:
        """Which implementation updates the named store, for results."""
        return kernel_name(self.stores[name].device, self.kernel)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a row optimizer belongs to its stores and cannot be copied; make a new one, load state_dict()")

    # Steps.

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every row with pending gradients once, with their sum, and drop them.

        Raises:
            RuntimeError: another row optimizer was made for a store of this one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lr = float(self.param_groups[0]["lr"])
        self._check_decay(self.param_groups[0])
        if self._decays("full"):
            for rows in self.rows.values():
                rows.rule.check(lr, self.clock)
        gather_rows((store.gradients for store in self.stores.values()), self.kernel)
        for name, store in self.stores.items():
            self._check_owner(name, store)
            pending = store.gradients.take(self.kernel)
            if pending is not None:
                self.rows[name].update(*pending, lr)
        self.clock.tick(lr)
        return loss

    def _check_owner(self, name: str, store: RowStore) -> None:
        if store.gradients.optimizer is not self:
            raise RuntimeError(f"row store {name!r} has another row optimizer now, which was made later; step that one")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop pending gradients, and with them the lookups that they are of.

        Lookups whose backward pass is still to come stay counted: a loop may clear gradients before or after it
        computes a loss.
        """
        pending = [self.rows[name] for name, store in self.stores.items() if store.gradients.parts]
        super().zero_grad(set_to_none=True)
        for store in self.stores.values():
            store.gradients.drop()
        for rows in pending:
            rows.looked_up.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises TypeError after construction: rows come with their store."""
        if self.param_groups:
            raise TypeError("a row optimizer has one parameter group; make a second optimizer for other stores")
        super().add_param_group(param_group)

    def catch_up(self) -> None:
        """Bring every row up to date with the steps it was away from; nothing to do unless ``decay`` is ``full``."""
        if not self._decays("full"):
            return
        for rows in self.rows.values():
            for start in range(0, rows.store.num_rows, _CATCH_UP_ROWS):
                end = min(start + _CATCH_UP_ROWS, rows.store.num_rows)
                rows.refresh(torch.arange(start, end, device=rows.store.device))

    # Rows that change places.

    @torch.no_grad()
    def move(self, store: RowStore, old: Tensor, new: Tensor, to: RowStore | None = None) -> None:
        """Make rows ``new`` what rows ``old`` are: values, and all that belongs to a row here.

        Moments, steps, the steps it has seen and its share of the penalty go along. ``old`` stay as they are; reset
        those that nobody reads any longer. State that the rule of ``to`` keeps and that of ``store`` does not starts
        afresh.

        Args:
            store: where the rows are.
            old, new: int64 [n]; ``new`` are distinct.
            to: where they go; None for the same store.

        Raises:
            ValueError: a store is not one of this optimizer's, or the shapes or widths of rows differ.
            RuntimeError: gradients are pending; call it after a step.
        """
        here, there = self._rows_of(store), self._rows_of(to or store)
        if old.shape != new.shape or here.store.row_dim != there.store.row_dim:
            raise ValueError(f"cannot move {tuple(old.shape)} rows to {tuple(new.shape)}, or to rows of another width")
        here.move(old, new, there)

    @torch.no_grad()
    def reset(self, store: RowStore, rows: Tensor, values: Tensor | None = None) -> None:
        """Let ``rows`` int64 [n] of ``store`` start again, without what they have gathered here.

        Args:
            store: where the rows are.
            rows: distinct.
            values: float [n, D], what they hold from now on; None for what they hold.

        Raises:
            ValueError: the store is not one of this optimizer's.
            RuntimeError: gradients are pending; call it after a step.
        """
        self._rows_of(store).reset(rows, values)

    def _rows_of(self, store: RowStore) -> RowUpdater:
        for rows in self.rows.values():
            if rows.store is store:
                if store.gradients.parts:
                    raise RuntimeError(f"gradients of row store {rows.name!r} are pending; move or reset after a step")
                return rows
        raise ValueError(f"that row store is not one of this optimizer's: {sorted(self.stores)}")

    # State.

    def state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(``store.key``, tensor) of everything it holds for every row."""
        yield from self._saved_tensors().items()
        yield from ((f"{name}.share", rows.shares) for name, rows in self.rows.items() if rows.shares is not None)

    def _saved_tensors(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": tensor for name, rows in self.rows.items() for key, tensor in rows.state.items()}

    def state_dict(self) -> dict[str, Any]:
        """``state``: the tensors of every row, by ``store.key``; ``param_groups``; ``lr_sums``, what the clock saw."""
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        lr_sums = torch.from_numpy(np.array(self.clock.lr_sums))
        return {"state": self._saved_tensors(), "param_groups": groups, "lr_sums": lr_sums}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy :meth:`state_dict` back. Raises ValueError if it is of other stores or another optimizer."""
        own, given = self._saved_tensors(), state_dict["state"]
        if own.keys() != given.keys():
            raise ValueError(f"the state has {sorted(given)}, this optimizer has {sorted(own)}")
        for key, tensor in own.items():
            if tensor.shape != given[key].shape:
                raise ValueError(f"{key}: the state is {tuple(given[key].shape)}, expected {tuple(tensor.shape)}")
        for group in state_dict["param_groups"]:
            self._check_decay(group)
        for key, tensor in own.items():
            tensor.copy_(given[key])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        self.clock.load_lr_sums(np.asarray(state_dict["lr_sums"], dtype=np.float64))

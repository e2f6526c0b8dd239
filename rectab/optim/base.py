"""What all row optimizers share: pending gradients, weight decay that follows the steps, state, schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rectab.ops.dispatch import KernelName, kernel_name
from rectab.ops.formats import FloatFormat
from rectab.ops.hashing import salt_of
from rectab.ops.memory import empty_rows
from rectab.ops.replay import Clock
from rectab.ops.rows import RowStore

__all__ = ["Decay", "RowOptimizer"]

Decay = Literal["full", "lazy", "minibatch"]

_STATE_DTYPES = (torch.float32, torch.bfloat16)  # squares of small gradients underflow in fp16
_CATCH_UP_ROWS = 1 << 20


class RowOptimizer(torch.optim.Optimizer):
    """Updates the rows that a step touched, from the gradients that row stores collected.

    It is a ``torch.optim.Optimizer``, so learning-rate schedulers take it. State is allocated at once (also on the meta
    device, where it is only counted).

    Weight decay is the gradient of an L2 penalty (coupled, as in ``torch.optim.Adam``), in one of three ways:

    * ``full``: ``weight_decay / 2 * ||row||^2`` over the whole table, at the batch's cost: a row that comes back first
      replays the steps it was away from (:mod:`rectab.ops.replay`), before it is read. With ``max_replay=None``
      training equals the dense optimizer's to rounding; with 32, a row that was away for 50 to 5,000 steps was off by
      at most 2.5 % of the way that decay moved it (docs/performance.md). Call :meth:`catch_up` before rows are read by
      other means than a store's ``forward``: saving, serving, copying.
    * ``lazy``: the same penalty on the rows of the batch only.
    * ``minibatch``: DIN's mini-batch aware penalty (Zhou et al., KDD 2018, section 5.1):
      ``weight_decay / row_counts * row`` once for every distinct row of the batch.

    Args:
        stores: (name, store) of every row store, as from ``EmbeddingTable.row_stores()``.
        defaults: options of the parameter group; schedulers change ``lr`` there.
        weight_decay: L2 coefficient, at least 0.
        decay: which rows feel it, see above.
        row_counts: for ``minibatch``: by store name, int or float [num_rows], how often each row occurs in training.
        max_replay: for ``full``: missed steps replayed one by one; the rest goes in closed form; None replays all.
        state_dtype: of moments and squares: fp32 or bf16.
        seed: of the stochastic rounding of rows held in fp16 or bf16, and of state in bf16.
        kernel: ``auto``, ``torch``, ``numba`` or ``triton``, see :mod:`rectab.ops.dispatch`.

    Raises:
        ValueError: an option is out of range, or a store does not collect row gradients.
    """

    def __init__(
        self,
        stores: Iterable[tuple[str, RowStore]],
        defaults: dict[str, Any],
        *,
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
        self.state_dtype = state_dtype
        self.seed = seed
        self.kernel: KernelName = kernel
        self.clock = Clock(weight_decay, -1 if max_replay is None else max_replay)
        self._check(defaults["lr"], weight_decay, max_replay)
        super().__init__([s.anchor for s in self.stores.values()], {**defaults, "weight_decay": weight_decay})
        self.row_state: dict[str, dict[str, Tensor]] = {
            name: self._new_state(store, store.device) for name, store in self.stores.items()
        }
        self._shares = self._shares_of(row_counts) if self._decays("minibatch") else {}
        for name, store in self.stores.items():
            store.before_lookup = None  # an optimizer that was there before must not decay rows any longer
            if self._decays("full"):
                seen = empty_rows(store.num_rows, dtype=torch.int32, device=store.device).zero_()
                self.row_state[name]["seen"] = seen
                store.before_lookup = self._refresher(name)

    def _check(self, lr: float, weight_decay: float, max_replay: int | None) -> None:
        if not self.stores:
            raise ValueError("a row optimizer needs at least one row store; this table has no trained rows")
        for name, store in self.stores.items():
            if store.gradient != "row":
                raise ValueError(f"row store {name!r} has gradient={store.gradient!r}; use a torch optimizer for it")
            if weight_decay and self.decay == "full" and not isinstance(store.format, FloatFormat):
                raise ValueError(
                    f"row store {name!r} holds {store.format.name}: use decay='lazy' or 'minibatch', not 'full'"
                )
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must be at least 0, got lr={lr}, weight_decay={weight_decay}")
        if self.decay not in ("full", "lazy", "minibatch"):
            raise ValueError(f"decay must be 'full', 'lazy' or 'minibatch', got {self.decay!r}")
        if max_replay is not None and max_replay < 0:
            raise ValueError(f"max_replay must be at least 0 or None, got {max_replay}")
        if self.state_dtype not in _STATE_DTYPES:
            raise ValueError(f"state_dtype must be one of {_STATE_DTYPES}, got {self.state_dtype}")

    def _check_decay(self, group: Mapping[str, Any]) -> None:
        if float(group["weight_decay"]) != self.clock.decay:
            raise ValueError(
                f"weight_decay of a row optimizer stays what it was made with, {self.clock.decay}: rows that come back "
                f"replay their steps with it; it was set to {group['weight_decay']}. Make a new optimizer"
            )

    def _decays(self, how: Decay) -> bool:
        return self.clock.decay > 0.0 and self.decay == how

    def _shares_of(self, row_counts: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        shares = {}
        for name, store in self.stores.items():
            counts = None if row_counts is None else row_counts.get(name)
            if counts is None or counts.shape != (store.num_rows,):
                raise ValueError(f"decay='minibatch' needs row_counts[{name!r}] of shape ({store.num_rows},)")
            shares[name] = 1.0 / counts.to(store.device, torch.float32).clamp(min=1.0)
        return shares

    def _refresher(self, name: str) -> Callable[[Tensor], None]:
        def refresh(rows: Tensor) -> None:
            with torch.no_grad():
                self._refresh(name, rows.reshape(-1))

        return refresh

    def _salt(self, name: str, what: str) -> int:
        """Of the stochastic rounding of one store at one step; kernels use salt, salt + 1 and salt + 2."""
        return salt_of(self.seed, name, what, self.clock.now)

    def kernel_of(self, name: str) -> str:
        """Which implementation updates the named store, for results."""
        return kernel_name(self.stores[name].device, self.kernel)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a row optimizer belongs to its stores and cannot be copied; make a new one, load state_dict()")

    # What an optimizer is.

    def _new_state(self, store: RowStore, device: torch.device) -> dict[str, Tensor]:
        raise NotImplementedError

    def _update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, *gradient: Any) -> None:
        """One step of the distinct ``rows`` int64 [u] of ``weight`` and ``state``.

        ``gradient`` is what every kernel takes: gradients fp32 [u, D], shares or None, lr, decay, salt.
        """
        raise NotImplementedError

    def _refresh(self, name: str, rows: Tensor) -> None:
        """Bring ``rows`` int64 [n], repeated or not, up to date with the clock."""
        raise NotImplementedError

    # What torch expects.

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every row with pending gradients once, with their sum, and drop them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lr = float(self.param_groups[0]["lr"])
        self._check_decay(self.param_groups[0])
        if self._decays("full"):
            self._check_full_decay(lr)
        for name, store in self.stores.items():
            if store.pending:
                self._step_store(name, store, lr)
        self.clock.tick(lr)
        return loss

    def _check_full_decay(self, lr: float) -> None:
        """SGD's closed form needs ``lr * weight_decay < 1``; overridden there."""

    def _step_store(self, name: str, store: RowStore, lr: float) -> None:
        rows, gradients = store.sum_pending(self.kernel)
        store.pending = []
        if self._decays("full"):
            self._refresh(name, rows)  # rows that were looked up before the last step
        shares, salt = self._shares.get(name), self._salt(name, "update")
        if isinstance(store.format, FloatFormat):
            state = self.row_state[name]
            self._update(store.weight, state, rows, gradients, shares, lr, self.clock.decay, salt)
        else:
            self._update_copy(name, store, rows, gradients, None if shares is None else shares[rows], lr, salt)
        if self._decays("full"):
            self.row_state[name]["seen"].index_fill_(0, rows, self.clock.now + 1)

    def _update_copy(
        self, name: str, store: RowStore, rows: Tensor, gradients: Tensor, shares: Tensor | None, lr: float, salt: int
    ) -> None:
        """One step of rows in a format that kernels do not write: read them, apply the rule to the copy, write it."""
        values, state = store.read(rows), self.row_state[name]
        copied = {key: tensor[rows] for key, tensor in state.items()}
        numbers = torch.arange(rows.numel(), device=rows.device)
        self._update(values, copied, numbers, gradients, shares, lr, self.clock.decay, salt)
        for key, tensor in copied.items():
            state[key][rows] = tensor
        store.write(rows, values, salt)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop pending gradients."""
        for store in self.stores.values():
            store.pending = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises TypeError after construction: rows come with their store."""
        if self.param_groups:
            raise TypeError("a row optimizer has one parameter group; make a second optimizer for other stores")
        super().add_param_group(param_group)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row up to date with the steps it was away from; nothing to do unless ``decay`` is ``full``."""
        if not self._decays("full"):
            return
        for name, store in self.stores.items():
            for start in range(0, store.num_rows, _CATCH_UP_ROWS):
                end = min(start + _CATCH_UP_ROWS, store.num_rows)
                self._refresh(name, torch.arange(start, end, device=store.device))

    def state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(``store.key``, tensor) of everything it holds for every row."""
        for name, state in self.row_state.items():
            yield from ((f"{name}.{key}", tensor) for key, tensor in state.items())
        yield from ((f"{name}.share", share) for name, share in self._shares.items())

    def state_dict(self) -> dict[str, Any]:
        """``state``: the tensors of every row, by ``store.key``; ``param_groups``; ``lr_sums``, what the clock saw."""
        state = {f"{n}.{key}": tensor for n, s in self.row_state.items() for key, tensor in s.items()}
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {
            "state": state,
            "param_groups": groups,
            "lr_sums": torch.from_numpy(np.array(self.clock.lr_sums)),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy :meth:`state_dict` back. Raises ValueError if it is of other stores or another optimizer."""
        own = {f"{n}.{key}": tensor for n, s in self.row_state.items() for key, tensor in s.items()}
        given = state_dict["state"]
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

"""The numba updates and refreshes: ``<rule>_update`` and ``<rule>_refresh`` of :mod:`rectab.optim.rule`.

``weight`` is [N, D] and ``state`` [N] or [N, D], of the store or of a copy of some rows; both change in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rectab.ops import numba_refresh as refresh_kernels
from rectab.ops import numba_update as update_kernels
from rectab.ops.numba_support import flat_rows, launch, raise_if_outside, rows_array, thread_count
from rectab.ops.replay import Clock
from rectab.ops.step import Step

__all__ = [
    "adagrad_refresh",
    "adagrad_update",
    "adam_refresh",
    "adam_update",
    "sgd_refresh",
    "sgd_update",
]

_SAME_SHARE = np.empty(0, dtype=np.float32)
_NO_STEPS = np.empty(0, dtype=np.int32)

State = dict[str, Tensor]


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Rows and state, one number a row as one column."""
    return tuple(rows_array(tensor.view(tensor.shape[0], -1)) for tensor in tensors)


def _launch_update(kernel: Any, tensors: Any, step: Step, *options: Any) -> None:
    shares = _SAME_SHARE if step.shares is None else step.shares.numpy()
    rows, gradients = step.rows.numpy(), step.gradients.numpy()
    how = (rows, gradients, shares, np.float32(step.lr), np.float32(step.decay), step.number, step.salt)
    launch(kernel, thread_count(step.gradients.numel()), tensors, how, *options)


def sgd_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.sgd.SGD`."""
    _launch_update(update_kernels.sgd, rows_array(weight), step)


def adagrad_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.adagrad.Adagrad`."""
    _launch_update(update_kernels.adagrad, _arrays(weight, state["square"]), step, np.float32(rule.eps))


def adam_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.adam.Adam`."""
    tensors = _arrays(weight, state["moment"], state["square"])
    steps = state["steps"].numpy() if "steps" in state else _NO_STEPS
    _launch_update(update_kernels.adam, (*tensors, steps), step, *_adam_options(rule, weight))


def _adam_options(rule: Any, weight: Tensor) -> tuple[Any, ...]:
    (beta_1, beta_2), corrections = rule.betas, rule.corrections(weight.device)
    return (np.float32(beta_1), np.float32(beta_2), np.float32(rule.eps)), corrections.numpy()


def _launch_refresh(
    kernel: Any, tensors: tuple[Tensor, ...], seen: Tensor, rows: Tensor, clock: Clock, *rest: Any
) -> None:
    flat = flat_rows(rows)
    threads = thread_count(flat.size * tensors[0].shape[1])
    outside = np.zeros(2, dtype=np.int64)
    replay = (clock.now, np.float32(clock.decay), clock.max_replay)
    launch(kernel, threads, _arrays(*tensors), seen.numpy(), flat, outside, replay, *rest)
    raise_if_outside(outside, seen.numel())


def sgd_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.sgd.SGD.replay`."""
    _launch_refresh(refresh_kernels.sgd, (weight,), state["seen"], rows, clock, clock.log_kept(), salt)


def adagrad_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.adagrad.Adagrad.replay`."""
    tensors, rest = (weight, state["square"]), (clock.lr_sums, np.float32(rule.eps), salt)
    _launch_refresh(refresh_kernels.adagrad, tensors, state["seen"], rows, clock, *rest)


def adam_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.adam.Adam.replay`."""
    tensors, rest = (weight, state["moment"], state["square"]), (clock.lr_sums, *_adam_options(rule, weight), salt)
    _launch_refresh(refresh_kernels.adam, tensors, state["seen"], rows, clock, *rest)

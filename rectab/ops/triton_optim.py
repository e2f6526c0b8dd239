"""Update rules of row optimizers in triton: one step of distinct rows, and the steps that rows were away from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rectab.ops import triton_refresh, triton_rows
from rectab.ops.replay import Clock
from rectab.ops.step import Step
from rectab.ops.triton_support import KINDS, blocks_of, check_inside, in_place, launch, salt_tensor

__all__ = ["adagrad_refresh", "adagrad_update", "adam_refresh", "adam_update", "sgd_refresh", "sgd_update"]

State = dict[str, Tensor]


def _launch_update(
    kernel: Any, weight: Tensor, state: Sequence[Tensor], step: Step, *rest: Any, **options: Any
) -> None:
    """Of distinct rows; ``rest`` and ``options`` are the rule's own."""
    tensors = [in_place(tensor) for tensor in (weight.detach(), *state)]
    shares = step.gradients if step.shares is None else step.shares
    touched = (weight.shape[1], step.rows, step.rows.numel(), step.gradients, shares, step.lr, step.decay)
    options |= {"SHARED": step.shares is None, "KIND": KINDS[weight.dtype]}
    salt = salt_tensor(step.salt, weight.device)
    launch(kernel, step.rows.numel(), blocks_of(weight.shape[1]), *tensors, *touched, salt, *rest, **options)


def sgd_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.sgd.SGD`."""
    _launch_update(triton_rows.sgd, weight, (), step)


def adagrad_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.adagrad.Adagrad`."""
    square = state["square"]
    options = {"PER_ROW": square.dim() == 1, "STATE_KIND": KINDS[square.dtype]}
    _launch_update(triton_rows.adagrad, weight, (square,), step, rule.eps, **options)


def adam_update(weight: Tensor, state: State, step: Step, rule: Any) -> None:
    """See :class:`rectab.optim.adam.Adam`."""
    moment, square, steps = state["moment"], state["square"], state.get("steps")
    corrections = rule.corrections(weight.device)
    rest = (step.number, *rule.betas, rule.eps, corrections, corrections.shape[1] - 1)
    options = {"OWN_STEPS": steps is not None, "STATE_KIND": KINDS[moment.dtype]}
    own_steps = step.rows if steps is None else steps
    _launch_update(triton_rows.adam, weight, (moment, square, own_steps), step, *rest, **options)


def _launch_refresh(
    kernel: Any,
    weight: Tensor,
    state: Sequence[Tensor],
    seen: Tensor,
    rows: Tensor,
    clock: Clock,
    sums: Tensor,
    salt: int,
    *rest: Any,
    **options: Any,
) -> None:
    """Of any rows, -1 among them, which are none; ``sums`` are those that a stretch of steps is read from."""
    tensors = [in_place(tensor) for tensor in (weight.detach(), *state, seen)]
    flat = rows.reshape(-1).to(torch.int64).contiguous()
    outside = torch.zeros((), dtype=torch.int32, device=weight.device)
    asked = (seen.numel(), weight.shape[1], flat, flat.numel(), outside, sums, clock.now)
    salts = salt_tensor(salt, weight.device)
    options |= {"KIND": KINDS[weight.dtype]}
    launch(kernel, flat.numel(), blocks_of(weight.shape[1]), *tensors, *asked, salts, *rest, **options)
    check_inside(outside, "a row")


def sgd_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.sgd.SGD.replay`."""
    sums = clock.log_kept_on(weight.device)
    _launch_refresh(triton_refresh.sgd, weight, (), state["seen"], rows, clock, sums, salt)


def adagrad_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.adagrad.Adagrad.replay`."""
    square, sums = state["square"], clock.lr_sums_on(weight.device)
    options = {"PER_ROW": square.dim() == 1, "STATE_KIND": KINDS[square.dtype]}
    rest = (clock.decay, clock.max_replay, rule.eps)
    _launch_refresh(triton_refresh.adagrad, weight, (square,), state["seen"], rows, clock, sums, salt, *rest, **options)


def adam_refresh(weight: Tensor, state: State, rows: Tensor, clock: Clock, salt: int, rule: Any) -> None:
    """See :meth:`rectab.optim.adam.Adam.replay`."""
    moments, sums = (state["moment"], state["square"]), clock.lr_sums_on(weight.device)
    corrections = rule.corrections(weight.device)
    logs = (math.log(beta) if beta else -math.inf for beta in rule.betas)
    rest = (clock.decay, clock.max_replay, *rule.betas, *logs, rule.eps, corrections, corrections.shape[1] - 1)
    options = {"STATE_KIND": KINDS[moments[0].dtype]}
    _launch_refresh(triton_refresh.adam, weight, moments, state["seen"], rows, clock, sums, salt, *rest, **options)

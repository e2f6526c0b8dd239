"""The numba updates and refreshes with the signatures of :mod:`rectab.ops.kernels_torch`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rectab.ops import numba_refresh as refresh_kernels
from rectab.ops import numba_update as update_kernels
from rectab.ops.numba_support import flat_rows, launch, raise_if_outside, rows_array, thread_count
from rectab.ops.replay import Clock

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


def _share_array(shares: Tensor | None) -> np.ndarray:
    return _SAME_SHARE if shares is None else shares.numpy()


def sgd_update(
    weight: Tensor, rows: Tensor, gradients: Tensor, shares: Tensor | None, lr: float, decay: float, salt: int
) -> None:
    """See :func:`rectab.ops.kernels_torch.sgd_update`."""
    launch(
        update_kernels.sgd,
        thread_count(gradients.numel()),
        rows_array(weight),
        rows.numpy(),
        gradients.numpy(),
        _share_array(shares),
        np.float32(lr),
        np.float32(decay),
        salt,
    )


def adagrad_update(
    weight: Tensor,
    square: Tensor,
    rows: Tensor,
    gradients: Tensor,
    shares: Tensor | None,
    lr: float,
    decay: float,
    eps: float,
    salt: int,
) -> None:
    """See :func:`rectab.ops.kernels_torch.adagrad_update`."""
    launch(
        update_kernels.adagrad,
        thread_count(gradients.numel()),
        rows_array(weight),
        rows_array(square.view(square.shape[0], -1)),
        rows.numpy(),
        gradients.numpy(),
        _share_array(shares),
        np.float32(lr),
        np.float32(decay),
        np.float32(eps),
        salt,
    )


def adam_update(
    weight: Tensor,
    moment: Tensor,
    square: Tensor,
    steps: Tensor | None,
    rows: Tensor,
    gradients: Tensor,
    shares: Tensor | None,
    lr: float,
    decay: float,
    betas: tuple[float, float],
    eps: float,
    corrections: Tensor,
    step: int,
    salt: int,
) -> None:
    """See :func:`rectab.ops.kernels_torch.adam_update`."""
    launch(
        update_kernels.adam,
        thread_count(gradients.numel()),
        (rows_array(weight), rows_array(moment), rows_array(square)),
        _NO_STEPS if steps is None else steps.numpy(),
        step,
        rows.numpy(),
        gradients.numpy(),
        _share_array(shares),
        np.float32(lr),
        np.float32(decay),
        (np.float32(betas[0]), np.float32(betas[1]), np.float32(eps)),
        corrections.numpy(),
        salt,
    )


def _launch_refresh(
    kernel: Any, tensors: tuple[Tensor, ...], seen: Tensor, rows: Tensor, clock: Clock, *rest: Any
) -> None:
    flat = flat_rows(rows)
    state = tuple(rows_array(tensor.view(tensor.shape[0], -1)) for tensor in tensors)
    threads = thread_count(flat.size * tensors[0].shape[1])
    outside = np.zeros(2, dtype=np.int64)
    replay = (clock.now, np.float32(clock.decay), clock.max_replay)
    launch(kernel, threads, state, seen.numpy(), flat, outside, replay, *rest)
    raise_if_outside(outside, seen.numel())


def sgd_refresh(weight: Tensor, seen: Tensor, rows: Tensor, clock: Clock, salt: int) -> None:
    """See :func:`rectab.ops.kernels_torch.sgd_refresh`."""
    _launch_refresh(refresh_kernels.sgd, (weight,), seen, rows, clock, clock.log_kept(), salt)


def adagrad_refresh(
    weight: Tensor, square: Tensor, seen: Tensor, rows: Tensor, clock: Clock, eps: float, salt: int
) -> None:
    """See :func:`rectab.ops.kernels_torch.adagrad_refresh`."""
    rest = (clock.lr_sums, np.float32(eps), salt)
    _launch_refresh(refresh_kernels.adagrad, (weight, square), seen, rows, clock, *rest)


def adam_refresh(
    weight: Tensor,
    moment: Tensor,
    square: Tensor,
    seen: Tensor,
    rows: Tensor,
    clock: Clock,
    betas: tuple[float, float],
    eps: float,
    corrections: Tensor,
    salt: int,
) -> None:
    """See :func:`rectab.ops.kernels_torch.adam_refresh`."""
    options = (np.float32(betas[0]), np.float32(betas[1]), np.float32(eps))
    rest = (clock.lr_sums, options, corrections.numpy(), salt)
    _launch_refresh(refresh_kernels.adam, (weight, moment, square), seen, rows, clock, *rest)

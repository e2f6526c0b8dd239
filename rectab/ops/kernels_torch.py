"""The row kernels in plain torch: the reference that the numba and triton kernels are tested against.

Every ``*_update`` changes the given distinct rows by one step, every ``*_refresh`` replays the steps a row was away
from. Arithmetic is fp32; rows and state held in fp16 or bf16 are rounded stochastically (:mod:`rectab.ops.rounding`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectab.ops.replay import Clock, chunks_of, decayed
from rectab.ops.rounding import store_rows

__all__ = [
    "adagrad_refresh",
    "adagrad_update",
    "adam_refresh",
    "adam_update",
    "coalesce",
    "gather",
    "sgd_refresh",
    "sgd_update",
]


def gather(weight: Tensor, rows: Tensor) -> Tensor:
    """[N, D], int64 [*] -> [*, D]. Raises IndexError for a row outside the store."""
    return torch.nn.functional.embedding(rows, weight)


def coalesce(pending: Sequence[tuple[Tensor, Tensor]], row_dim: int) -> tuple[Tensor, Tensor]:
    """Distinct rows and the sum of each row's gradients.

    Args:
        pending: (rows int64 [n], gradients [n, D]) of every lookup of the step.
        row_dim: D.

    Returns:
        int64 [u] and fp32 [u, D]; the order of the rows is the implementation's own.
    """
    rows = torch.cat([rows for rows, _ in pending])
    distinct, slots = torch.unique(rows, return_inverse=True)
    sums = torch.zeros(distinct.numel(), row_dim, device=rows.device)
    gradients = torch.cat([gradients.float() for _, gradients in pending])
    return distinct, sums.index_add_(0, slots, gradients)


def _with_decay(weight: Tensor, gradients: Tensor, rows: Tensor, decay: float, shares: Tensor | None) -> Tensor:
    """Gradients plus those of (decay / 2) * share * ||row||^2."""
    if decay == 0.0:
        return gradients
    return gradients + (weight * decay if shares is None else weight * (shares[rows] * decay).unsqueeze(1))


def sgd_update(
    weight: Tensor, rows: Tensor, gradients: Tensor, shares: Tensor | None, lr: float, decay: float, salt: int
) -> None:
    """``w -= lr * (g + decay * share * w)`` for distinct ``rows`` [u] with ``gradients`` fp32 [u, D]."""
    w = weight[rows].float()
    w -= lr * _with_decay(w, gradients, rows, decay, shares)
    store_rows(weight, rows, w, salt)


def sgd_refresh(weight: Tensor, seen: Tensor, rows: Tensor, clock: Clock, salt: int) -> None:
    """Exact: ``w *= prod(1 - lr_s * decay)`` over the steps s that ``rows`` missed."""
    rows = torch.unique(rows[seen[rows] < clock.now])
    kept = torch.from_numpy(clock.log_kept()).to(rows.device)
    factor = torch.exp(kept[clock.now] - kept[seen[rows].long()]).float().unsqueeze(1)
    store_rows(weight, rows, weight[rows].float() * factor, salt)
    seen[rows] = clock.now


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
    """``square += g^2`` (its mean over the row if ``square`` is [N]); ``w -= lr * g / (sqrt(square) + eps)``."""
    w = weight[rows].float()
    g = _with_decay(w, gradients, rows, decay, shares)
    s = square[rows].float() + (g.square() if square.dim() == 2 else g.square().mean(1))
    store_rows(square, rows, s, salt + 1)
    root = s.sqrt() + eps
    store_rows(weight, rows, w - lr * g / (root if square.dim() == 2 else root.unsqueeze(1)), salt)


def adagrad_refresh(
    weight: Tensor, square: Tensor, seen: Tensor, rows: Tensor, clock: Clock, eps: float, salt: int
) -> None:
    """Replays the steps that ``rows`` missed, whose gradient was that of the decay alone."""
    rows = torch.unique(rows[seen[rows] < clock.now])
    if rows.numel() == 0:
        return
    per_row = square.dim() == 1
    w, s = weight[rows].float(), square[rows].float()
    if per_row:
        s = s.unsqueeze(1)
    for start, length, active in chunks_of(seen[rows], clock):
        lr_sum = clock.lr_between(start, start + length).unsqueeze(1)
        steps = length.float().unsqueeze(1)
        squared = (clock.decay * w).square()
        s_next = s + steps * (squared.mean(1, keepdim=True) if per_row else squared)
        middle = s + (s_next - s) * (steps + 1) / (2 * steps)
        rate = lr_sum * clock.decay / (middle.sqrt() + eps)
        w_next = torch.where(steps == 1, w - rate * w, w * decayed(rate))
        keep = active.unsqueeze(1)
        w, s = torch.where(keep, w_next, w), torch.where(keep, s_next, s)
    store_rows(square, rows, s.squeeze(1) if per_row else s, salt + 1)
    store_rows(weight, rows, w, salt)
    seen[rows] = clock.now


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
    """One Adam step of distinct rows.

    Args:
        weight, moment, square: [N, D].
        steps: int32 [N], how often each row was updated, which this raises by one and corrects the bias with; None
            corrects with ``step``.
        rows, gradients, shares, lr, decay: as in :func:`sgd_update`.
        corrections: fp32 [2, T]: ``1 - beta^t``; the last column stands for all later t.
        step: the number of this step, from 1; used where ``steps`` is None.
        salt: of the stochastic rounding.
    """
    beta_1, beta_2 = betas
    w = weight[rows].float()
    g = _with_decay(w, gradients, rows, decay, shares)
    m = moment[rows].float()
    v = square[rows].float()
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    if steps is None:
        correction = corrections[:, min(step, corrections.shape[1] - 1)].view(2, 1, 1)
    else:
        steps[rows] += 1
        correction = corrections[:, steps[rows].clamp(max=corrections.shape[1] - 1).long()].unsqueeze(2)
    store_rows(moment, rows, m, salt + 1)
    store_rows(square, rows, v, salt + 2)
    store_rows(weight, rows, w - lr * (m / correction[0]) / ((v / correction[1]).sqrt() + eps), salt)


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
    """Replays the dense Adam steps that ``rows`` missed, whose gradient was that of the decay alone."""
    rows = torch.unique(rows[seen[rows] < clock.now])
    if rows.numel() == 0:
        return
    beta_1, beta_2 = betas
    w, m, v = weight[rows].float(), moment[rows].float(), square[rows].float()
    for start, length, active in chunks_of(seen[rows], clock):
        lr_sum = clock.lr_between(start, start + length).unsqueeze(1)
        n = length.float().unsqueeze(1)
        kept_1, kept_2 = beta_1**n, beta_2**n
        middle = (start + (length + 1) // 2).clamp(max=corrections.shape[1] - 1).long()
        correction = corrections[:, middle].unsqueeze(2)
        g = clock.decay * w
        v_next = kept_2 * v + (1 - kept_2) * g * g
        # One step: m and v after it. Many: v in the middle; m follows g, after what was left of it has run out.
        m_one = beta_1 * m + (1 - beta_1) * g
        scale = lr_sum / correction[0] / ((torch.where(n == 1, v_next, (v + v_next) / 2) / correction[1]).sqrt() + eps)
        left = (m - g) * (beta_1 * (1 - kept_1) / (1 - beta_1)) / n
        w_next = torch.where(n == 1, w - scale * m_one, w * decayed(scale * clock.decay) - scale * left)
        m_next = torch.where(n == 1, m_one, kept_1 * m + (1 - kept_1) * clock.decay * w_next)
        keep = active.unsqueeze(1)
        w, m, v = torch.where(keep, w_next, w), torch.where(keep, m_next, m), torch.where(keep, v_next, v)
    store_rows(moment, rows, m, salt + 1)
    store_rows(square, rows, v, salt + 2)
    store_rows(weight, rows, w, salt)
    seen[rows] = clock.now

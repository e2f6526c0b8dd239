"""The row kernels in plain torch: the reference that the numba and triton kernels are tested against.

What an optimizer does to rows is not here: its rule is the reference (:mod:`rectab.optim.rule`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["coalesce", "gather", "norm"]


def gather(weight: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, D], int64 [*] -> [*, D] of ``dtype``. Raises IndexError for a row outside the store."""
    return torch.nn.functional.embedding(rows, weight).to(dtype)


def coalesce(pending: Sequence[tuple[Tensor, Tensor]], row_dim: int) -> tuple[Tensor, Tensor]:
    """Distinct rows and the sum of each row's gradients.

    Args:
        pending: (rows int64 [n], gradients [n, D]) of every lookup of the step; rows of -1, which another kernel may
            have left, are none.
        row_dim: D.

    Returns:
        int64 [u] and fp32 [u, D]; the order of the rows is the implementation's own.
    """
    if any(bool((rows < 0).any()) for rows, _ in pending):
        pending = [(rows[rows >= 0], gradients[rows >= 0]) for rows, gradients in pending]
    rows = torch.cat([rows for rows, _ in pending])
    distinct, slots = torch.unique(rows, return_inverse=True)
    sums = torch.zeros(distinct.numel(), row_dim, dtype=torch.float32, device=rows.device)
    gradients = torch.cat([gradients.float() for _, gradients in pending])
    return distinct, sums.index_add_(0, slots, gradients)


def norm(sums: Tensor) -> Tensor:
    """fp32 [u, D] as :func:`coalesce` gives them -> fp32 [], the root of the sum of all squares."""
    return torch.linalg.vector_norm(sums)

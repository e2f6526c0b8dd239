"""Rows of a host's table in another order, copied only where they are read: a table may be most of the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["SortedRows"]


class SortedRows:
    """Read as an fp32 array [n, D]: by a range, which copies nothing yet, or by row numbers.

    Args:
        weight: float [num_embeddings, D], on any device.
        order: int64 [n], ids.
    """

    def __init__(self, weight: Tensor, order: np.ndarray) -> None:
        self._weight, self._order = weight.detach(), order
        self.shape = (len(order), weight.shape[1])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, at: slice | np.ndarray) -> SortedRows | np.ndarray:
        found = SortedRows(self._weight, self._order[at])
        return found if isinstance(at, slice) else np.asarray(found)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        ids = torch.from_numpy(self._order).to(self._weight.device)
        return np.asarray(self._weight.index_select(0, ids).float().cpu().numpy(), dtype)

"""The lookups that benchmarks time: F features of one batch, ids drawn by a Zipf law over each feature's rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """Attributes:
    num_rows: rows of the table, shared out evenly to the features.
    row_dim: D.
    batch_size: B.
    num_features: F.
    exponent: probability of the r-th commonest id of a feature is proportional to ``r ** -exponent``.
    """

    num_rows: int
    row_dim: int
    batch_size: int = 4096
    num_features: int = 26
    exponent: float = 1.2

    def batches(self, count: int, seed: int = 0) -> list[Tensor]:
        """``count`` tensors int64 [B, F] of row numbers."""
        generator = np.random.default_rng(seed)
        per_feature = self.num_rows // self.num_features
        cumulated = np.cumsum(np.arange(1, per_feature + 1, dtype=np.float64) ** -self.exponent)
        scatter = generator.permutation(per_feature)  # common ids are not neighbours in memory
        shape = (count, self.batch_size, self.num_features)
        ranks = np.searchsorted(cumulated, generator.random(shape) * cumulated[-1])
        rows = scatter[ranks] + np.arange(self.num_features) * per_feature
        return list(torch.from_numpy(rows.astype(np.int64)))

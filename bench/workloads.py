"""What benchmarks time: lookups of F features in one batch, ids drawn by a Zipf law over each feature's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.batch import Batch
from rectab.ops import kernel_name
from rectab.schema import Feature, Schema, Vocabulary

__all__ = ["Workload", "describe", "model_batches", "schema_of"]


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


def schema_of(workload: Workload, counts: bool = False) -> Schema:
    """One vocabulary per feature; with ``counts``, those that a million training rows would have."""
    names = [f"field_{index}" for index in range(workload.num_features)]
    size = workload.num_rows // workload.num_features
    expected = None
    if counts:
        law = np.arange(1, size + 1, dtype=np.float64) ** -workload.exponent
        expected = np.maximum(1e6 * law / law.sum(), 1).astype(np.int64)
    return Schema(tuple(Vocabulary(n, size, counts=expected) for n in names), tuple(Feature(n, n) for n in names))


def model_batches(workload: Workload, count: int) -> list[Batch]:
    """Batches of ids within each feature's vocabulary, with random labels, a quarter of them positive."""
    first = torch.arange(workload.num_features) * (workload.num_rows // workload.num_features)
    generator = torch.Generator().manual_seed(0)
    labels = [(torch.rand(workload.batch_size, generator=generator) < 0.25).float() for _ in range(count)]
    return [
        Batch(ids - first, torch.zeros(len(ids), 0), labels=label)
        for ids, label in zip(workload.batches(count), labels, strict=True)
    ]


def describe(benchmark: Any, workload: Workload, **more: Any) -> None:
    """Note in the result what no time means anything without: sizes, threads, kernel, gradient layout."""
    circumstances = {"threads": torch.get_num_threads(), "kernel": kernel_name("cpu"), "gradient": "row"}
    benchmark.extra_info.update({**circumstances, **vars(workload), **more})

"""What benchmarks time: lookups of F features in one batch, ids drawn by a Zipf law over each feature's rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.batch import Batch
from rectab.ops import kernel_name
from rectab.optim import RowOptimizer
from rectab.quantize.allocate import allocate
from rectab.quantize.blocks import finest_blocks
from rectab.quantize.options import OptionTable
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables import EmbeddingTable
from rectab.tables.quantized import HEADER_BYTES, encode_table

__all__ = ["Workload", "age", "describe", "model_batches", "packed_table", "schema_of"]


@dataclass(frozen=True)
class Workload:
    """Attributes:
    num_rows: rows of the table, shared out evenly to the features.
    row_dim: D.
    batch_size: B.
    num_features: F.
    exponent: probability of the r-th commonest id of a feature is proportional to ``r ** -exponent``.
    scattered: common ids are not neighbours in memory; False: ids are numbered by frequency, as ``prepare`` does.
    """

    num_rows: int
    row_dim: int
    batch_size: int = 4096
    num_features: int = 26
    exponent: float = 1.2
    scattered: bool = True

    @property
    def rows_per_feature(self) -> int:
        return self.num_rows // self.num_features

    def law(self) -> np.ndarray:
        """float64 [rows per feature]: chance that a lookup is of its feature's r-th commonest id."""
        weights = np.arange(1, self.rows_per_feature + 1, dtype=np.float64) ** -self.exponent
        return weights / weights.sum()

    def places(self) -> np.ndarray:
        """int64 [rows per feature]: the r-th commonest id."""
        ranks = np.arange(self.rows_per_feature)
        return np.random.default_rng(1).permutation(ranks) if self.scattered else ranks

    def batches(self, count: int, seed: int = 0) -> list[Tensor]:
        """``count`` tensors int64 [B, F] of row numbers; they do not depend on ``row_dim``."""
        places = torch.from_numpy(self.places())
        first = torch.arange(self.num_features) * self.rows_per_feature
        return [places[ranks] + first for ranks in self.ranks(count, seed)]

    def ranks(self, count: int, seed: int = 0) -> list[Tensor]:
        """``count`` tensors int64 [B, F] of ids within each feature's vocabulary, which are numbered by frequency."""
        generator = np.random.default_rng(seed)
        cumulated = np.cumsum(self.law())
        made = []
        for _ in range(count):
            drawn = generator.random((self.batch_size, self.num_features)) * cumulated[-1]
            made.append(torch.from_numpy(np.searchsorted(cumulated, drawn).astype(np.int64)))
        return made

    def last_steps(self, steps: int, seed: int = 0) -> Tensor:
        """int32 [num_rows]: of ``steps`` steps, counted from 1, the last that had each row; 0 if none had it.

        Seen from the end, the steps without a row follow the geometric law of its chance to be in a batch.
        """
        generator, places = np.random.default_rng([seed, 2]), self.places()
        log_missed = np.log1p(-self.law()) * self.batch_size
        last = np.zeros(self.num_rows, dtype=np.int32)
        for feature in range(self.num_features):
            away = np.floor(np.log1p(-generator.random(self.rows_per_feature)) / log_missed)
            last[feature * self.rows_per_feature + places] = steps - np.minimum(away, steps)
        return torch.from_numpy(last)


def age(optimizer: RowOptimizer, workload: Workload, steps: int = 5000) -> None:
    """Make a new optimizer of one store, whose decay is ``full``, stand as after so many steps of the workload.

    Rows that come back then replay what they would in training: a new optimizer has no missed steps to replay.
    """
    (rows,) = optimizer.rows.values()
    lr = float(optimizer.param_groups[0]["lr"])
    optimizer.clock.load_lr_sums(np.arange(steps + 1) * lr)
    rows.state["seen"].copy_(workload.last_steps(steps))


def schema_of(workload: Workload, counts: bool = False) -> Schema:
    """One vocabulary per feature; with ``counts``, those that a million training rows would have."""
    names = [f"field_{index}" for index in range(workload.num_features)]
    size, expected = workload.rows_per_feature, None
    if counts:
        expected = np.empty(size, dtype=np.int64)
        expected[workload.places()] = np.maximum(1e6 * workload.law(), 1)
    return Schema(tuple(Vocabulary(n, size, counts=expected) for n in names), tuple(Feature(n, n) for n in names))


@cache
def _options(workload: Workload) -> OptionTable:
    """Of generated vectors. The features matter differently to the model, and so do directions of a vector: that is
    what decides encodings."""
    generator = np.random.default_rng(3)
    width, size = workload.row_dim, workload.rows_per_feature
    vectors = [generator.standard_normal((size, width), np.float32) for _ in range(workload.num_features)]
    matters = np.exp(2 * generator.standard_normal((len(vectors), width)))
    laws = [workload.law()] * len(vectors)
    return OptionTable(vectors, laws, np.stack([np.diag(m) for m in matters]), HEADER_BYTES)


def packed_table(workload: Workload, share: float) -> EmbeddingTable:
    """The packed table of generated vectors within a share of the bytes of fp32 rows."""
    options = _options(replace(workload, batch_size=1, scattered=False))
    blocks = [finest_blocks(index, workload.law()) for index in range(workload.num_features)]
    allocation = allocate(options, blocks, int(share * sum(v.nbytes for v in options.vectors)))
    assert allocation is not None
    return encode_table(schema_of(workload).vocabularies, workload.row_dim, options, allocation)


def model_batches(workload: Workload, count: int) -> list[Batch]:
    """Batches of ids within each feature's vocabulary, with random labels, a quarter of them positive."""
    first = torch.arange(workload.num_features) * workload.rows_per_feature
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

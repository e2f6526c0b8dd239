"""Lookup, and lookup + backward + update: rectab beside FBGEMM's TBE, nn.EmbeddingBag, SparseAdam and dense Adam.

Every candidate gets its ids in the layout it reads. Prints the median of every candidate and the quartiles of its
per-round ratio to rectab.

    .venv-peers/bin/python bench/peers/compare_rows.py --rows 100000 1420000 --dims 16 --rounds 30
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rounds import Candidate, add_arguments, copy_bandwidth, header, interleaved, report, write_json
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1])]

from workloads import Workload  # noqa: E402

from rectab.ops import RowStore  # noqa: E402
from rectab.optim import RowAdagrad, RowAdam  # noqa: E402

DENSE_LIMIT = 2_000_000  # rows up to which a dense Adam step is worth waiting for
ALL_LIMIT = 20_000_000  # rows up to which all candidates' tables and states lie in memory together
Run = Callable[[Tensor], object]


def rectab_step(workload: Workload, gradient: Tensor, optimizer: type, **options: object) -> Run:
    store = RowStore(workload.num_rows, workload.row_dim)
    rows = optimizer([("rows", store)], **options)

    def step(batch: Tensor) -> None:
        store(batch).backward(gradient)
        rows.step()

    return step


def torch_step(module: nn.Module, optimizer: torch.optim.Optimizer, gradient: Tensor) -> Run:
    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        out = module(batch)
        out.backward(gradient.view(out.shape))
        optimizer.step()

    return step


class TableBatched:
    """FBGEMM's fused table-batched embedding on CPU: F tables of equal size, bags of one."""

    def __init__(self, workload: Workload, gradient: Tensor) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        features, batch_size = workload.num_features, workload.batch_size
        self.per_feature = workload.num_rows // features
        spec = (self.per_feature, workload.row_dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [spec] * features, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.01, eps=1e-10
        )
        self.tables.init_embedding_weights_uniform(-0.01, 0.01)
        self.offsets = torch.arange(batch_size * features + 1)
        self.gradient = gradient.reshape(batch_size, -1)

    def inputs(self, batches: list[Tensor]) -> list[Tensor]:
        """Row numbers within each table, table after table."""
        first = torch.arange(batches[0].shape[1]) * self.per_feature
        return [(batch - first).t().reshape(-1) for batch in batches]

    def lookup(self, indices: Tensor) -> Tensor:
        return self.tables(indices, self.offsets)

    def step(self, indices: Tensor) -> None:
        self.lookup(indices).backward(self.gradient)


def steps(workload: Workload, gradient: Tensor, batches: list[Tensor]) -> list[Candidate]:
    tables = TableBatched(workload, gradient)
    row_wise = [
        Candidate("rectab RowAdagrad", "row", rectab_step(workload, gradient, RowAdagrad), batches),
        Candidate("fbgemm TBE rowwise Adagrad", "fused", tables.step, tables.inputs(batches)),
    ]
    if workload.num_rows > ALL_LIMIT:
        return row_wise
    shape = (workload.num_rows, workload.row_dim)
    sparse, bag = nn.Embedding(*shape, sparse=True), nn.EmbeddingBag(*shape, mode="sum", sparse=True)
    of_bags = [batch.reshape(-1, 1) for batch in batches]
    sparse_adam = torch_step(sparse, torch.optim.SparseAdam(sparse.parameters()), gradient)
    sparse_adagrad = torch_step(bag, torch.optim.Adagrad(bag.parameters()), gradient)
    candidates = [
        *row_wise,
        Candidate("rectab RowAdam", "row", rectab_step(workload, gradient, RowAdam), batches),
        Candidate("rectab RowAdam + L2", "row", rectab_step(workload, gradient, RowAdam, weight_decay=0.01), batches),
        Candidate("Embedding + SparseAdam", "sparse", sparse_adam, batches),
        Candidate("EmbeddingBag + Adagrad", "sparse", sparse_adagrad, of_bags),
    ]
    if workload.num_rows <= DENSE_LIMIT:
        dense = nn.Embedding(*shape)
        dense_adam = torch_step(dense, torch.optim.Adam(dense.parameters()), gradient)
        candidates.append(Candidate("Embedding + Adam", "dense", dense_adam, batches))
    return candidates


def lookups(workload: Workload, gradient: Tensor, batches: list[Tensor]) -> list[Candidate]:
    shape = (workload.num_rows, workload.row_dim)
    tables = TableBatched(workload, gradient)
    of_bags = [batch.reshape(-1, 1) for batch in batches]
    return [
        Candidate("rectab RowStore", "none", RowStore(*shape), batches),
        Candidate("fbgemm TBE", "none", tables.lookup, tables.inputs(batches)),
        Candidate("nn.Embedding", "none", nn.Embedding(*shape), batches),
        Candidate("nn.EmbeddingBag", "none", nn.EmbeddingBag(*shape, mode="sum"), of_bags),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_420_000, 10_000_000, 50_000_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--max-bytes", type=float, default=4e9, help="skip tables larger than this")
    add_arguments(parser, rounds=30)
    arguments = parser.parse_args()
    clock = header(arguments)
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s", flush=True)
    results = []
    for num_rows, dim in itertools.product(arguments.rows, arguments.dims):
        workload = Workload(num_rows, dim)
        if num_rows * dim * 4 > arguments.max_bytes:
            print(f"skipped {num_rows:,} x {dim}: larger than --max-bytes")
            continue
        batches = workload.batches(16)
        gradient = torch.randn(workload.batch_size, workload.num_features, dim) * 0.01
        for what, make in (("lookup", lookups), ("step", steps)):
            with torch.set_grad_enabled(what == "step"):
                candidates = make(workload, gradient, batches)
                seconds = interleaved(candidates, arguments.rounds, clock)
            rows = report(f"{what} {num_rows:,} x {dim}", candidates, seconds, rows=num_rows, dim=dim)
            if what == "lookup":
                moved = 2 * gradient.numel() * 4  # rows read, vectors written
                share = moved / (rows[0]["median_ms"] / 1e3) / bandwidth
                rows[0]["copy_share"] = share
                print(f"{'':28s} rectab's lookup moves {share:.0%} of what a copy would")
            results += rows
            del candidates
            gc.collect()
    write_json(arguments.json, results, copy_bytes_per_second=bandwidth)


if __name__ == "__main__":
    main()

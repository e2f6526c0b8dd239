"""Lookup, and lookup + backward + update: rectab beside FBGEMM's TBE, nn.EmbeddingBag, SparseAdam and dense Adam.

Everything runs in one process, interleaved: each round times every candidate once, so a busy machine slows all alike.
Prints the median of every candidate and the median and quartiles of its per-round ratio to rectab.

    .venv-peers/bin/python bench/peers/compare_rows.py --rows 100000 1420000 --dims 16 --rounds 30
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from workloads import Workload  # noqa: E402

from rectab.ops import RowStore, kernel_name  # noqa: E402
from rectab.optim import RowAdagrad, RowAdam  # noqa: E402

DENSE_LIMIT = 2_000_000  # rows up to which a dense Adam step is worth waiting for
Run = Callable[[Tensor], object]  # one step or one lookup of a batch
Candidate = tuple[str, str, Run]  # name, gradient layout


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
        out = module(batch) if isinstance(module, nn.Embedding) else module(batch.reshape(-1, 1))
        out.backward(gradient.view(out.shape))
        optimizer.step()

    return step


def table_batched(workload: Workload, gradient: Tensor) -> tuple[Run, Run]:
    """FBGEMM's fused table-batched embedding on CPU: (step, lookup); F tables of equal size, bags of one."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    features, batch_size = workload.num_features, workload.batch_size
    per_feature = workload.num_rows // features
    spec = (per_feature, workload.row_dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [spec] * features, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.01, eps=1e-10
    )
    tables.init_embedding_weights_uniform(-0.01, 0.01)
    offsets = torch.arange(batch_size * features + 1)
    flat_gradient = gradient.reshape(batch_size, -1)
    first = torch.arange(features) * per_feature

    def lookup(batch: Tensor) -> Tensor:
        return tables((batch - first).t().reshape(-1), offsets)

    def step(batch: Tensor) -> None:
        lookup(batch).backward(flat_gradient)

    return step, lookup


def steps(workload: Workload, gradient: Tensor) -> list[Candidate]:
    shape = (workload.num_rows, workload.row_dim)
    sparse, bag = nn.Embedding(*shape, sparse=True), nn.EmbeddingBag(*shape, mode="sum", sparse=True)
    candidates: list[Candidate] = [
        ("rectab RowAdagrad", "row", rectab_step(workload, gradient, RowAdagrad)),
        ("rectab RowAdam", "row", rectab_step(workload, gradient, RowAdam)),
        ("rectab RowAdam + L2", "row", rectab_step(workload, gradient, RowAdam, weight_decay=0.01)),
        ("fbgemm TBE rowwise Adagrad", "fused", table_batched(workload, gradient)[0]),
        ("Embedding + SparseAdam", "sparse", torch_step(sparse, torch.optim.SparseAdam(sparse.parameters()), gradient)),
        ("EmbeddingBag + Adagrad", "sparse", torch_step(bag, torch.optim.Adagrad(bag.parameters()), gradient)),
    ]
    if workload.num_rows <= DENSE_LIMIT:
        dense = nn.Embedding(*shape)
        candidates.append(
            ("Embedding + Adam", "dense", torch_step(dense, torch.optim.Adam(dense.parameters()), gradient))
        )
    return candidates


def lookups(workload: Workload, gradient: Tensor) -> list[Candidate]:
    shape = (workload.num_rows, workload.row_dim)
    store, plain, bag = RowStore(*shape), nn.Embedding(*shape), nn.EmbeddingBag(*shape, mode="sum")
    return [
        ("rectab RowStore", "none", store),
        ("fbgemm TBE", "none", table_batched(workload, gradient)[1]),
        ("nn.Embedding", "none", plain),
        ("nn.EmbeddingBag", "none", lambda batch: bag(batch.reshape(-1, 1))),
    ]


def interleaved(
    candidates: list[Candidate], batches: list[Tensor], rounds: int, clock: Callable[[], float]
) -> np.ndarray:
    """Seconds [rounds, candidates] by ``clock``."""
    for (_, _, run), batch in itertools.product(candidates, batches[:2]):
        run(batch)
    seconds = np.zeros((rounds, len(candidates)))
    for index, batch in zip(range(rounds), itertools.cycle(batches), strict=False):
        for column, (_, _, run) in enumerate(candidates):
            start = clock()
            run(batch)
            seconds[index, column] = clock() - start
    return seconds


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy larger than the caches; the best of five."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    best = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.numel() * 4 / best


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def report(
    what: str, workload: Workload, candidates: list[Candidate], seconds: np.ndarray, bandwidth: float
) -> list[dict]:
    moved = 2 * workload.batch_size * workload.num_features * workload.row_dim * 4  # rows read, vectors written
    rows = []
    for column, (name, layout, _) in enumerate(candidates):
        low, middle, high = np.percentile(seconds[:, column] / seconds[:, 0], [25, 50, 75])
        median = float(np.median(seconds[:, column]))
        row = {
            "what": what,
            "rows": workload.num_rows,
            "dim": workload.row_dim,
            "name": name,
            "gradient": layout,
            "threads": torch.get_num_threads(),
            "kernel": kernel_name("cpu") if name.startswith("rectab") else "",
            "median_ms": median * 1e3,
            "ratio": middle,
            "ratio_quartiles": [low, high],
            "copy_share": moved / median / bandwidth if what == "lookup" else None,
        }
        rows.append(row)
        share = f"  {row['copy_share']:6.1%} of copy bandwidth" if what == "lookup" else ""
        print(
            f"{what:7s} {workload.num_rows:>10,d} x {workload.row_dim:<3d} {name:28s} {layout:7s}"
            f" {median * 1e3:9.3f} ms  x{middle:7.2f} [{low:.2f}, {high:.2f}]{share}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_420_000, 10_000_000, 50_000_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--max-bytes", type=float, default=4e9, help="skip tables larger than this")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread; for a machine that others use as well")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    if arguments.cpu_time:
        torch.set_num_threads(1)
    bandwidth = copy_bandwidth()
    print("CPU time of one thread" if arguments.cpu_time else "wall time", end="; ")
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, {torch.get_num_threads()} threads, torch {torch.__version__}")
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
                candidates = make(workload, gradient)
                seconds = interleaved(candidates, batches, arguments.rounds, clock)
            results += report(what, workload, candidates, seconds, bandwidth)
            del candidates
            gc.collect()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"copy_bytes_per_second": bandwidth, "rows": results}, indent=1))


if __name__ == "__main__":
    main()

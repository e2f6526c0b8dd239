"""Lookups from tables in few bytes beside the same from fp32 rows, in turns: ``lookups.py [NAME ...]``.

A name is a row format (``int8``), ``quantized:10%`` for a full table packed within that share of its bytes, or another
form that a table is served in (``unified``, ``optembed``, ``dnis:structured``; see :mod:`forms`). A batch of 4,096 x 26
Zipf ids, D = 16, 1.42 million ids numbered by frequency, CPU time of one thread, a batch of its own for every round.
The number to look at is the median over rounds of (time of the table / time of fp32 in the same round).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from forms import served
from torch import Tensor
from workloads import Workload

from rectab.ops import RowStore, formats

NUM_ROWS, ROW_DIM, ROUNDS, WARM_UP = 1_420_000, 16, 60, 4
NAMES = ("int8", "int6", "int4", "int3", "int2", "ternary", "int1", "bf16", "quantized:10%", "quantized:1%")

Lookup = Callable[[Tensor], Tensor]


def seconds(lookup: Lookup, ids: Tensor) -> float:
    start = time.thread_time()
    lookup(ids)
    return time.thread_time() - start


def contestants(name: str, workload: Workload) -> tuple[Lookup, Lookup]:
    """(the one of that name, fp32): a store beside a store, or a table beside the full table."""
    if name in {row_format.name for row_format in formats()}:
        first = torch.arange(workload.num_features) * workload.rows_per_feature
        stores = [RowStore(NUM_ROWS, ROW_DIM, rows=rows) for rows in (name, "fp32")]
        ours, fp32 = (lambda ids, store=store: store(ids + first) for store in stores)
        return ours, fp32
    columns = torch.arange(workload.num_features)
    ours, full = served(name, workload), served("full", workload)
    return lambda ids: ours(ids, columns), lambda ids: full(ids, columns)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    workload = Workload(NUM_ROWS, ROW_DIM, scattered=False)
    batches = workload.ranks(ROUNDS + WARM_UP)
    for name in sys.argv[1:] or NAMES:
        ours, fp32 = contestants(name, workload)
        times = [(seconds(ours, ids), seconds(fp32, ids)) for ids in batches][WARM_UP:]
        medians = [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
        ratio = statistics.median(a / b for a, b in times)
        print(f"{name}: {medians[0]:.3f} ms, fp32 {medians[1]:.3f} ms, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""Lookups from rows held in few bits beside the same from fp32 rows, in turns: ``row_formats.py [FORMAT ...]``.

A batch of 4,096 x 26 Zipf ids, D = 16, 1.42 million rows, CPU time of one thread, a batch of its own for every
round. The number to look at is the median over rounds of (time of the format / time of fp32 in the same round).
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import Tensor
from workloads import Workload

from rectab.ops import RowStore

NUM_ROWS, ROW_DIM, ROUNDS, WARM_UP = 1_420_000, 16, 60, 4


def seconds(store: RowStore, rows: Tensor) -> float:
    start = time.thread_time()
    store(rows)
    return time.thread_time() - start


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    batches = Workload(NUM_ROWS, ROW_DIM).batches(ROUNDS + WARM_UP)
    plain = RowStore(NUM_ROWS, ROW_DIM)
    for name in sys.argv[1:] or ["int8", "int6", "int4", "int3", "int2", "ternary", "int1", "bf16"]:
        store = RowStore(NUM_ROWS, ROW_DIM, rows=name)
        times = [(seconds(store, rows), seconds(plain, rows)) for rows in batches][WARM_UP:]
        ours, fp32 = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(f"{name}: {ours:.3f} ms, fp32 {fp32:.3f} ms, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""Lookup, and lookup + backward + update: rectab beside FBGEMM's TBE, nn.EmbeddingBag, SparseAdam and dense Adam.

    .venv-peers/bin/python bench/peers/compare_rows.py --rows 100000 1420000 --dims 16 --rounds 30

Three groups for every size, one after the other: lookups, Adagrads and Adams. Ratios are to the first of each group
(RowStore, RowAdagrad, RowAdam). A group holds what fits ``--max-bytes`` together; what does not is named. Every round
has a batch of its own, every candidate gets it in the layout that it reads, and RowAdam + L2 starts as after thousands
of steps, so that rows come back from as far as they would in training. Shares are of the copy bandwidth: the bytes that
a run must at least move (row_contenders.py counts them) over the time that a copy of them would take.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from typing import Any

import psutil
import torch
from rounds import WARM_UP, add_arguments, copy_bandwidth, header, interleaved, report, write_json
from row_contenders import GROUPS, Data, Workload, fitting


def timed_group(group: str, data: Data, arguments: argparse.Namespace, clock: Any) -> tuple[list[Any], list[str]]:
    """Rows of the candidates of one group that fit, and what was left out."""
    num_rows, dim = data.shape
    what = f"{group} {num_rows:,} x {dim}"
    kept, left_out = fitting(GROUPS[group](data), arguments.max_bytes)
    left_out = [f"{what}: {line}" for line in left_out]
    print(*(f"left out of {line}" for line in left_out), sep="\n", end="\n" if left_out else "", flush=True)
    if not kept:
        return [], left_out
    with torch.set_grad_enabled(group != "lookup"):
        candidates = [contender.candidate() for contender in kept]
        seconds = interleaved(candidates, arguments.rounds, clock)
    return report(what, candidates, seconds, group=group, rows=num_rows, dim=dim), left_out


def add_shares(rows: list[dict[str, Any]], bandwidth: float) -> None:
    """The share of the copy bandwidth that each row's time makes of the bytes it must move."""
    for row in rows:
        row["copy_share"] = row["moved_bytes"] / (row["median_ms"] / 1e3) / bandwidth
    if rows:
        print("  share of a copy: ", ", ".join(f"{row['name']} {row['copy_share']:.0%}" for row in rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_420_000, 10_000_000, 50_000_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--max-bytes", type=float, help="of a group's tables and states; default: half of what is free")
    add_arguments(parser, rounds=40)
    arguments = parser.parse_args()
    arguments.max_bytes = arguments.max_bytes or psutil.virtual_memory().available / 2
    clock, bandwidth = header(arguments), copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, at most {arguments.max_bytes / 1e9:.1f} GB a group", flush=True)
    results: list[dict[str, Any]] = []
    left_out: list[str] = []
    for num_rows in arguments.rows:
        batches = Workload(num_rows, 1).batches(arguments.rounds + WARM_UP)
        for dim, group in itertools.product(arguments.dims, GROUPS):
            rows, missing = timed_group(group, Data(Workload(num_rows, dim), batches), arguments, clock)
            gc.collect()
            add_shares(rows, bandwidth)
            results += rows
            left_out += missing
            write_json(arguments.json, results, left_out=left_out, copy_bytes_per_second=bandwidth)


if __name__ == "__main__":
    main()

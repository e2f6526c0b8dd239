"""Does a step of rectab get slower with the table? The same step over tables of several sizes, in turns.

    .venv-peers/bin/python bench/peers/compare_sizes.py --rows 100000 50000000 --rounds 20

Ratios are to the first size. A turn is many steps in a row, and its first counts like the others: single steps in turns
would take from the small table the caches that it has in a loop of its own, and flatter the ratio.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
from rounds import Candidate, add_arguments, header, interleaved, report, write_json
from row_contenders import Contender, Data, Workload, fitting, rectab_contender
from torch import Tensor

TURNS = 4  # until a batch comes again: with 16 steps a turn, no cache keeps the rows of a large table that long


def in_turns(contender: Contender, steps: int) -> Candidate:
    """A candidate whose run is ``steps`` steps."""
    single, batches = contender.candidate(), contender.data.batches

    def turn(batches: Sequence[Tensor]) -> None:
        for batch in batches:
            single.run(batch)

    turns = [batches[at : at + steps] for at in range(0, len(batches), steps)]
    details = {**single.details, "rows": contender.data.shape[0], "steps_a_turn": steps}
    return replace(single, run=turn, inputs=turns, details=details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_420_000, 10_000_000, 50_000_000])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16, help="of a turn")
    parser.add_argument("--max-bytes", type=float, help="of one optimizer's tables; default: 3/4 of what is free")
    add_arguments(parser, rounds=30)
    arguments = parser.parse_args()
    max_bytes = arguments.max_bytes or psutil.virtual_memory().available * 0.75
    clock = header(arguments)
    workloads = [Workload(num_rows, arguments.dim) for num_rows in arguments.rows]
    data = [Data(workload, workload.batches(TURNS * arguments.steps)) for workload in workloads]
    results: list[dict[str, Any]] = []
    missing: list[str] = []
    for name in ("RowAdagrad", "RowAdam"):
        named = [replace(rectab_contender(each, name), name=f"{each.shape[0]:,} rows") for each in data]
        kept, left_out = fitting(named, max_bytes)
        missing += [f"{name}: {line}" for line in left_out]
        candidates = [in_turns(contender, arguments.steps) for contender in kept]
        seconds = interleaved(candidates, arguments.rounds, clock) / arguments.steps
        results += report(name, candidates, seconds, optimizer=name, dim=arguments.dim)
        del candidates
        gc.collect()
        write_json(arguments.json, results, left_out=missing)


if __name__ == "__main__":
    main()

"""Ids a second of the slot map beside torchrec's sorted ZCH: lookup, counting and admission, without the rows.

    python -m bench.slots [--steps 400] [--out slots.json]

Batches of Zipf(1.1) ids that drift, a table of 10^6 rows that fills up, or is full; torchrec's is measured where it is
installed.
With ``--cpu-time`` steps are measured in CPU time, which other processes take no part of; on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.ops.slots import TALLY, Admit, Blocks, Evict, SlotRule, SlotState, take_rows

ROWS, BATCH, IDS, DRIFT = 1_000_000, 4_096, 10**7, 20


def batch_of(step: int, generator: np.random.Generator) -> Tensor:
    """int64 [BATCH]."""
    power = 1 - 1.1
    uniform = generator.random(BATCH)
    rank = ((uniform * ((IDS + 1) ** power - 1) + 1) ** (1 / power)).astype(np.int64) - 1
    return torch.from_numpy((rank + step * DRIFT) * 2_654_435_761)


def slots(
    evict: Evict, admit: Admit, half_life: float = 0.0, max_probe: int = 128, full: bool = False
) -> Callable[[int, Tensor], Any]:
    """rectab's; ``full`` of other ids from the start, so that who comes takes a row from another."""
    rule = SlotRule(evict, admit=admit, count=2, max_probe=max_probe, half_life=half_life)
    counted = ROWS if "lfu" in evict else 0
    width = 0 if admit == "always" else ROWS // 2
    state = SlotState(
        torch.full((ROWS,), -1),
        torch.zeros(ROWS, dtype=torch.int32),
        torch.zeros(counted, dtype=torch.int32),
        torch.zeros(4, width, dtype=torch.uint8),
        torch.zeros(len(TALLY), dtype=torch.int64),
    )
    blocks = Blocks(torch.tensor([0]), torch.tensor([ROWS]), torch.tensor([ROWS // 50]))
    column = torch.tensor(0)
    if full:
        others = torch.randint(2**62, (2 * ROWS,), generator=torch.Generator().manual_seed(1))
        take_rows(others, column, blocks, state, replace(rule, admit="always"))

    def step(number: int, ids: Tensor) -> None:
        state.tally[0] = number + 1
        take_rows(ids, column, blocks, state, rule)

    return step


RECTAB = {
    "lru, always": partial(slots, "lru", "always"),
    "distance_lfu, count": partial(slots, "distance_lfu", "count"),
    "lfu that fades, better": partial(slots, "lfu", "better", 100.0),
    "lru, always, full, 32 probes": partial(slots, "lru", "always", 0.0, 32, full=True),
    "distance_lfu, count, full, 32 probes": partial(slots, "distance_lfu", "count", 0.0, 32, full=True),
    "lfu that fades, better, full, 32 probes": partial(slots, "lfu", "better", 100.0, 32, full=True),
}


def sorted_zch() -> Callable[[int, Tensor], Any]:
    """torchrec's ``MCHManagedCollisionModule`` with DistanceLFU and an interval of 100 steps."""
    from torchrec import JaggedTensor
    from torchrec.modules.mc_modules import DistanceLFU_EvictionPolicy, MCHManagedCollisionModule

    module = MCHManagedCollisionModule(
        zch_size=ROWS,
        device=torch.device("cpu"),
        eviction_policy=DistanceLFU_EvictionPolicy(),
        eviction_interval=100,
        input_hash_size=2**62,
    )
    lengths = torch.ones(BATCH, dtype=torch.int64)

    def step(number: int, ids: Tensor) -> None:
        features = {"item": JaggedTensor(ids, lengths=lengths)}
        module.profile(module.preprocess(features))
        module.remap(features)
        module.evict()

    return step


def measured(step: Callable[[int, Tensor], Any], steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """Ids a second by the second half of the steps, and how far the slowest hundredth is from the middle."""
    generator, times = np.random.default_rng(0), []
    for number in range(steps):
        ids = batch_of(number, generator)
        begin = clock()
        step(number, ids)
        times.append(clock() - begin)
    later = np.asarray(times[steps // 2 :])
    middle = float(np.median(later))
    return {
        "ids_per_second": BATCH / float(later.mean()),
        "ids_per_second_of_the_median": BATCH / middle,
        "p99_over_median": float(np.quantile(later, 0.99)) / middle,
        "worst_over_median": float(later.max()) / middle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    told: dict[str, Any] = {
        "rows": ROWS,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "cpu_time": given.cpu_time,
        "steps": given.steps,
    }
    for name, step in RECTAB.items():
        told[f"rectab {name}"] = measured(step(), given.steps, clock)
    try:
        told["torchrec sorted ZCH"] = measured(sorted_zch(), given.steps, clock)
    except ImportError:
        told["torchrec sorted ZCH"] = None
    print(json.dumps(told, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()

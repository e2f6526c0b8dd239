"""A served DCNv2 whose table is held in one form or another, in turns: ``serving.py [FORM ...]``, see ``forms.py``.

26 fields, D = 16, 1.42 million ids numbered by frequency, 1 thread. Every round times each form once on the same batch;
the ratio is the median over rounds of (time of the form / time of ``full`` in the same round). ``threads`` is how much
more two threads look up together than one, each with batches of its own; ``(sorting)`` is what two threads that share
nothing reach on the machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from forms import FORMS, served
from workloads import Workload, model_batches, schema_of

from rectab.models import CTRModel, ModelConfig
from rectab.tables import EmbeddingTable

ROUNDS = {1: 400, 64: 200, 4096: 30}
WORKLOAD = Workload(1_420_000, 16, scattered=False)
LOOKUPS, TURNS = 20, 9


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def model_rows(tables: dict[str, EmbeddingTable]) -> None:
    print("| table | bytes | batch | median, ms | 99th percentile, ms | times full |\n|---|---|---|---|---|---|")
    config = ModelConfig.from_options("dcnv2")
    models = {name: CTRModel(schema_of(WORKLOAD), table, config).eval() for name, table in tables.items()}
    for size, rounds in ROUNDS.items():
        batches = model_batches(Workload(1_420_000, 16, batch_size=size, scattered=False), 16)
        times: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(rounds + 10):
            for name, model in models.items():
                times[name].append(seconds(lambda m=model, b=batches[turn % 16]: m(b)))
        full = times["full"][10:]
        for name, taken in times.items():
            ratio = statistics.median(a / b for a, b in zip(taken[10:], full, strict=True))
            median, late = (float(np.percentile(taken[10:], q)) * 1e3 for q in (50, 99))
            size_held = f"{tables[name].ledger().bytes:,}"
            print(f"| {name} | {size_held} | {size} | {median:.3g} | {late:.3g} | {ratio:.2f} |", flush=True)


def thread_rows(tables: dict[str, EmbeddingTable]) -> None:
    print("\n| table | lookups of two threads / of one |\n|---|---|")
    columns = torch.arange(WORKLOAD.num_features)
    batches, noise = WORKLOAD.ranks(2 * LOOKUPS), np.random.default_rng(0).random(50_000)

    def sort() -> None:
        for _ in range(LOOKUPS):
            np.sort(noise)

    def gain(one: Callable[[], object], half: Callable[[int], object]) -> float:
        """Median over turns of (time of all work by one thread / by two)."""
        found = [seconds(one) / seconds(lambda: list(pool.map(half, (0, 1)))) for _ in range(TURNS)]
        return statistics.median(found)

    def work(table: EmbeddingTable, some: list[torch.Tensor]) -> None:
        with torch.inference_mode():
            for ids in some:
                table(ids, columns)

    with ThreadPoolExecutor(2) as pool:
        print(f"| (sorting) | {gain(lambda: (sort(), sort()), lambda _: sort()):.2f} |", flush=True)
        for name, table in tables.items():
            half = partial(lambda t, part: work(t, batches[part::2]), table)
            print(f"| {name} | {gain(partial(work, table, batches), half):.2f} |", flush=True)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    tables = {name: served(name, WORKLOAD) for name in dict.fromkeys(["full", *(sys.argv[1:] or FORMS)])}
    model_rows(tables)
    thread_rows(tables)


if __name__ == "__main__":
    main()

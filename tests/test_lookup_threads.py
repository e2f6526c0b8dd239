"""A server looks up from several threads: results are those of one, whatever the batches, and memory stays flat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, build_table, plan
from rectab.tables.quantized import QuantizedConfig

VOCABULARIES = [Vocabulary("user", 3000), Vocabulary("item", 500)]
COLUMNS = torch.arange(2)
SIZES = (1, 700, 3, 2000, 64)


def full() -> EmbeddingTable:
    return plan("full", VOCABULARIES, 16).build()


def packed() -> EmbeddingTable:
    config = QuantizedConfig((0, 0, 1), (0, 100, 0), ("int8/dimension", "int4/block", "ternary/row"))
    table = build_table("quantized.packed", VOCABULARIES, 16, config)
    table.payload.random_(generator=torch.Generator().manual_seed(0))
    return table


def few_bits() -> EmbeddingTable:
    return plan("full", VOCABULARIES, 16, options=TableOptions(rows="int4")).build()


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 500, (SIZES[i % len(SIZES)], 2), generator=generator) for i in range(count)]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@torch.inference_mode()
def looked_up(table: EmbeddingTable, some: list[torch.Tensor]) -> list[torch.Tensor]:
    return [table(ids, COLUMNS).clone() for ids in some]


@pytest.mark.parametrize("make", [full, packed, few_bits])
def test_two_threads_read_what_one_reads(make: object) -> None:
    table, some = make().eval(), batches(40)  # type: ignore[operator]
    wanted = looked_up(table, some)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(looked_up, [table] * 4, [some] * 4):
            for ours, theirs in zip(found, wanted, strict=True):
                assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("make", [full, packed])
def test_memory_stays_flat_while_threads_look_up(make: object) -> None:
    table, some = make().eval(), batches(20)  # type: ignore[operator]

    def serve(times: int) -> None:
        for _ in range(times):
            for ids in some:
                table(ids, COLUMNS)

    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        list(pool.map(serve, [10, 10]))
        before = resident()
        list(pool.map(serve, [40, 40]))
    held = sum(ids.shape[0] for ids in some) * 2 * 16 * 4  # bytes of what one round gives
    assert resident() - before < 40 * held / 8, "vectors of earlier rounds are still held"

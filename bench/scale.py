"""What torchrec's planner makes of a 1 TB set of tables, full and compressed, on 1 to 128 GPUs (docs/scale.md).

    .venv-peers/bin/python bench/scale.py [LINE...]       # of the first table, counted from 0; all without

Nothing is allocated and no GPU is used: tables are on the meta device, and times are the planner's own estimates.
"""

from __future__ import annotations

import logging
import sys
import warnings

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from rectab.schema import Vocabulary
from rectab.swap.torchrec import shardable
from rectab.tables import TableOptions
from rectab.tables.registry import build_table

DIM = 128
BATCH, HISTORY = 2048, 50
GIB = 2**30
HBM = 80 * GIB
GPUS = (8, 32, 128)
FEWEST = (1, 2, 4, 8, 16, 24, 32)
CASES = [
    ("full", None, "fp32"),
    ("full", None, "bf16"),
    *((method, budget, "fp32") for method in ("hashed", "unified") for budget in ("25%", "10%", "5%")),
    ("unified", "5%", "bf16"),
]
"""Method, budget, how rows are held. A budget is a share of the full table in fp32."""
SERVED = ("fp32", "bf16", "int8", "int4", "int2")
# 32 vocabularies as log-evenly spread as a large CTR model's, 1 TB in fp32 all together; the largest has a history too.
LARGEST, COUNT, FALL = 470_000_000, 32, 1.29


def vocabularies() -> dict[str, int]:
    return {f"field_{i}": max(int(LARGEST / FALL**i), 1000) for i in range(COUNT)}


FULL_BYTES = sum(vocabularies().values()) * DIM * 4


def full_collection() -> EmbeddingBagCollection:
    configs = []
    for index, (name, size) in enumerate(vocabularies().items()):
        features = [name, "history"] if index == 0 else [name]
        configs.append(EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=size, feature_names=features))
    return EmbeddingBagCollection(tables=configs, device=torch.device("meta"))


def plan(
    module: torch.nn.Module, rows: EmbeddingBagCollection, gpus: int, on_gpu: bool = False
) -> tuple[float, float, float] | None:
    """(memory of the fullest GPU, host memory of the fullest rank, both in GiB, estimated milliseconds of a step).

    None if it does not fit. ``on_gpu`` leaves the planner no host memory.
    """
    apply_optimizer_in_backward(RowWiseAdagrad, module.parameters(), {"lr": 0.01})
    kernels = [EmbeddingComputeKernel.FUSED.value] if on_gpu else None
    constraints = {
        config.name: ParameterConstraints(
            compute_kernels=kernels,
            pooling_factors=[float(HISTORY if name.startswith("history") else 1) for name in config.feature_names],
        )
        for config in rows.embedding_bag_configs()
    }
    topology = Topology(
        world_size=gpus,
        local_world_size=min(gpus, 8),
        compute_device="cuda",
        hbm_cap=HBM,
        hbm_mem_bw=3350 * GIB / 1000,
        intra_host_bw=450 * GIB / 1000,
        inter_host_bw=50 * GIB / 1000,
    )
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=BATCH, constraints=constraints, stats=[])
    try:
        planner.plan(module, [EmbeddingBagCollectionSharder()])
    except PlannerError:
        return None
    memory, host, time = [0.0] * gpus, [0.0] * gpus, [0.0] * gpus
    for option in planner._best_plan or []:
        for shard in option.shards:
            memory[shard.rank] += shard.storage.hbm / GIB
            host[shard.rank] += shard.storage.ddr / GIB
            time[shard.rank] += shard.perf.total
    return max(memory), max(host), max(time)


def module_of(method: str, budget: str | None, rows: str) -> torch.nn.Module:
    size = None if budget is None else str(int(float(budget.rstrip("%")) / 100 * FULL_BYTES))
    options = {"num_tables": 8} if method == "unified" else {}
    return shardable(full_collection(), method, size, "meta", options=TableOptions(rows=rows), **options)


def fewest(method: str, budget: str | None, rows: str) -> int | None:
    """GPUs whose own memory holds rows and optimizer state, of the numbers tried."""
    for gpus in FEWEST:
        module = module_of(method, budget, rows)
        if plan(module, module.rows, gpus, on_gpu=True) is not None:
            return gpus
    return None


def served(method: str, budget: str | None) -> list[str]:
    """GiB of the rows of a method, as many as fp32 ones take the budget, in every format of ``SERVED``."""
    config = module_of(method, budget, "fp32").planned.config
    known = [Vocabulary(name, size) for name, size in vocabularies().items()]
    tables = (build_table(method, known, DIM, config, TableOptions(rows=rows, device="meta")) for rows in SERVED)
    return [f"{table.ledger().bytes / GIB:.0f}" for table in tables]


def main(lines: list[int]) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    ids = sum(vocabularies().values())
    print(f"{COUNT} tables, {ids:,} ids, width {DIM}: {FULL_BYTES / 1e12:.2f} TB in fp32\n")
    print("| method | budget | rows | GiB | fewest GPUs | " + " | ".join(f"{n} GPUs" for n in GPUS) + " |")
    print("|---|---|---|---|---|" + "---|" * len(GPUS))
    for method, budget, rows in [case for line, case in enumerate(CASES) if line in lines or not lines]:
        size = module_of(method, budget, rows).planned.serving.bytes / GIB
        cells = [str(fewest(method, budget, rows) or f"over {FEWEST[-1]}")]
        for gpus in GPUS:
            module = module_of(method, budget, rows)
            found = plan(module, module.rows, gpus)
            cells.append("does not fit" if found is None else f"{found[0]:.0f} + {found[1]:.0f} GiB, {found[2]:.1f} ms")
        print(f"| {method} | {budget or '100%'} | {rows} | {size:.0f} | " + " | ".join(cells) + " |", flush=True)
    print("\n| served, GiB | budget | " + " | ".join(SERVED) + " |\n|---|---|" + "---|" * len(SERVED))
    for method, budget in (("full", None), ("hashed", "10%"), ("unified", "10%")):
        print(f"| {method} | {budget or '100%'} | " + " | ".join(served(method, budget)) + " |", flush=True)


if __name__ == "__main__":
    main([int(line) for line in sys.argv[1:]])

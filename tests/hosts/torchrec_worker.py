"""A sharded training run on several processes; started by test_torchrec_sharded.py.

    torchrec_worker.py OUT METHOD SHARDING STEPS --world N [--adagrad] [--row-adam] [--unpooled] ...

Imports once and forks the ranks: most of a short run is importing torchrec. Writes the losses of the whole batch to
OUT/losses.json (rank 0), checkpoints to OUT/checkpoint, and the exit code of every rank to OUT/codes.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.models.dlrm import DLRM
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from rectab.ops import segment_sum
from rectab.optim import RowAdam
from rectab.swap.torchrec import shardable
from rectab.swap.torchrec_checkpoint import load_sharded, save_sharded
from rectab.swap.torchrec_rows import sharded_row_stores
from rectab.tables import TableOptions

SIZES = {"user": 600, "item": 400, "city": 40}
BATCH, RATE = 64, 0.5
ROW_ADAM = {"lr": 0.01, "weight_decay": 0.1}


def collection(device: str, unpooled: bool) -> EmbeddingBagCollection | EmbeddingCollection:
    common = [{"name": n, "embedding_dim": 8, "num_embeddings": s, "feature_names": [n]} for n, s in SIZES.items()]
    if unpooled:
        return EmbeddingCollection([EmbeddingConfig(**config) for config in common], torch.device(device))
    bags = [EmbeddingBagConfig(pooling=PoolingType.SUM, **config) for config in common]
    return EmbeddingBagCollection(tables=bags, device=torch.device(device))


class Unpooled(nn.Module):
    """Vectors of single ids, which the model sums itself."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.sparse_arch = embeddings
        self.over = nn.Sequential(nn.Linear(8 * len(SIZES) + 4, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        found = self.sparse_arch(sparse)
        summed = [segment_sum(found[name].values(), found[name].offsets()) for name in SIZES]
        return self.over(torch.cat([*summed, dense], dim=1))


def build(method: str, unpooled: bool = False) -> tuple[nn.Module, list[str]]:
    torch.manual_seed(0)
    options = TableOptions(init_std=0.1)
    rows = shardable(collection("meta", unpooled), method, None if method == "full" else "50%", options=options)
    rows.copy_rows_from(rows.planned.build())
    if unpooled:
        return Unpooled(rows), [config.name for config in rows.rows.embedding_configs()]
    return DLRM(rows, 4, [16, 8], [16, 1]), [config.name for config in rows.rows.embedding_bag_configs()]


def batch(step: int, rank: int, world: int) -> tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]:
    """This rank's part of the step's batch: the parts of all ranks are the same batch, whatever their number."""
    generator = torch.Generator().manual_seed(step % 4)
    lengths = torch.randint(0, 4, (len(SIZES), BATCH), generator=generator)
    values = [
        torch.randint(n, (int(c.sum()),), generator=generator) for n, c in zip(SIZES.values(), lengths, strict=True)
    ]
    dense = torch.randn(BATCH, 4, generator=generator)
    labels = (torch.rand(BATCH, generator=generator) < 0.5).float()
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    kept = []
    for ids, count in zip(values, lengths, strict=True):
        bag = torch.repeat_interleave(torch.arange(BATCH), count)
        kept.append(ids[(bag >= mine.start) & (bag < mine.stop)])
    sparse = KeyedJaggedTensor(keys=list(SIZES), values=torch.cat(kept), lengths=lengths[:, mine].flatten())
    return dense[mine], sparse, labels[mine]


def optimizer_of(adagrad: bool) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    return (torch.optim.Adagrad, {"lr": 0.05, "eps": 1e-8}) if adagrad else (torch.optim.SGD, {"lr": RATE})


def shard(model: nn.Module, names: list[str], options: argparse.Namespace) -> DistributedModelParallel:
    if not options.row_adam:
        kind, arguments = optimizer_of(options.adagrad)
        apply_optimizer_in_backward(kind, model.sparse_arch.parameters(), arguments)
    constraints = {name: ParameterConstraints(sharding_types=[options.sharding], min_partition=4) for name in names}
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=options.world, compute_device="cpu"), constraints=constraints
    )
    sharders = [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()]
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    return DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)


def train(rank: int, port: int, options: argparse.Namespace) -> None:
    log = os.open(options.out / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    world = options.world
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    # Long, because a busy machine may hold a rank up for minutes. A rank that dies is noticed at once, not by this.
    dist.init_process_group("gloo", timeout=timedelta(minutes=30))
    model = shard(*build(options.method, options.unpooled), options)
    arch = model.module.sparse_arch
    bags = arch if options.unpooled else arch.embedding_bag_collection
    bags.copy_rows_from(bags.planned.build())
    stores = sharded_row_stores(model) if options.row_adam else []
    rows = RowAdam(stores, **ROW_ADAM, max_replay=None) if stores else None
    dense = [p for name, p in model.named_parameters() if "sparse_arch" not in name]
    optimizer = torch.optim.SGD(dense, lr=RATE)

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "rows": model.fused_optimizer.state_dict()["state"]}

    start = load_sharded(options.out / "checkpoint", state()) if options.resume else 0
    losses = []
    for step in range(start, options.steps):
        if step == options.save_at:
            save_sharded(options.out / "checkpoint", state(), step)
        if step == options.die_at and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        features, sparse, labels = batch(step, rank, world)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(features, sparse).squeeze(1), labels)
        loss.backward()
        optimizer.step()
        if rows is not None:
            rows.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(float(total) / world)
    if rank == 0:
        (options.out / "losses.json").write_text(json.dumps(losses))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("method")
    parser.add_argument("sharding")
    parser.add_argument("steps", type=int)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--adagrad", action="store_true")
    parser.add_argument("--row-adam", action="store_true")
    parser.add_argument("--unpooled", action="store_true")
    parser.add_argument("--save-at", type=int)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=train, args=(rank, port, options)) for rank in range(options.world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    (options.out / "codes.json").write_text(json.dumps([rank.exitcode for rank in ranks]))


if __name__ == "__main__":
    main()

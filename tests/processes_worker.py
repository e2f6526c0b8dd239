"""Trainings in several processes, each in the same way as in one; started by test_processes.py.

    processes_worker.py OUT WORLD CASE...       # CASE@2 for another number of processes

Imports once and forks the ranks: most of a short run is importing torch. Of every case rank 0 writes the losses of its
steps, the logits of the validation rows and the metrics to OUT/CASE.npz; every rank writes a digest of its weights to
OUT/CASE.RANK.txt; exit codes go to OUT/codes.json. With a WORLD of 1 nothing of several processes is used.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from training_helpers import counted, tiny_dataset

from rectab.batch import Batch
from rectab.models import ModelConfig
from rectab.processes import current, joined
from rectab.tables import TableOptions, plan
from rectab.training import TrainConfig
from rectab.training.evaluation import predict
from rectab.training.trainer import Trainer

ROWS, BATCH = 3203, 64  # the last batch of an epoch has three rows: of four processes one has none


@dataclass(frozen=True)
class Case:
    """One training: a table, a history tower, and how it is trained."""

    method: str
    budget: str | None = None
    history: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    epochs: int = 4
    rows: str = "fp32"
    model: str = "deepfm"
    dies_at: int | None = None
    shard: str | None = None
    kept: str | None = None  # name of the folder of its checkpoints, one after every step
    stops_at: int | None = None  # after so many steps


BUDGETS = {"full": None, "hashed": "40%", "unified": "25%", "narrow": "50%"}
CASES = {
    f"{method}-{history}": Case(method, budget, history)
    for method, budget in BUDGETS.items()
    for history in ("none", "din")
}
L2 = {"embedding_l2": 0.01}
MINIBATCH = {**L2, "embedding_l2_mode": "minibatch"}
# Of one process: the row optimizer of the same rule.
FUSED = {"fused_optimizer": True, "optimizer": "adagrad", "lr": 0.02}
FUSED_SGD = {**FUSED, "optimizer": "sgd", "lr": 0.2}
CASES |= {
    "l2": Case("full", history="mean", train=L2),
    "minibatch": Case("unified", "25%", "mean", train=MINIBATCH, epochs=1),
    "clip": Case("hashed", "40%", train={**L2, "clip_norm": 0.05}, epochs=1),
    "adagrad": Case("full", train={"optimizer": "adagrad", "lr": 0.05, **L2}, epochs=1),
    "sgd": Case("unified", "25%", train={"optimizer": "sgd", "lr": 0.2, **L2}, epochs=1),
    "dense": Case("full", train={"gradient": "dense"}, epochs=1),
    "int8": Case("full", rows="int8", epochs=1),
    "armnet": Case("full", model="armnet", epochs=1),
    "shard-full": Case("full", history="din", shard="table_wise", train=L2, epochs=1),
    "shard-hashed": Case("hashed", "40%", "mean", shard="table_wise", train={"optimizer": "adagrad"}, epochs=1),
    "shard-unified": Case("unified", "25%", shard="row_wise", train=L2, epochs=1),
    "shard-columns": Case("full", history="mean", shard="column_wise", train={**L2, "clip_norm": 0.05}, epochs=1),
    "shard-rows": Case("full", history="din", shard="row_wise", train={**L2, "clip_norm": 0.05}, epochs=1),
    "shard-minibatch": Case("unified", "25%", "mean", shard="table_wise", train=MINIBATCH, epochs=1),
    "shard-minibatch-columns": Case("full", history="mean", shard="column_wise", train=MINIBATCH, epochs=1),
    "shard-fused-adagrad": Case("full", shard="row_wise", train=FUSED, epochs=1),
    "shard-fused-sgd": Case("full", None, "mean", shard="column_wise", train=FUSED_SGD, epochs=1),
    "shard-fused-din": Case("full", None, "din", shard="row_wise", train=FUSED, epochs=1),
    "killed": Case("full", dies_at=5),
}


# Runs that stop and go on, by name: (processes, how rows are shared out, the steps after which it stops).
CHAINS: dict[str, list[tuple[int, str | None, int | None]]] = {
    "shards-first": [(2, "column_wise", 10), (3, "row_wise", 20), (2, "table_wise", 10), (1, None, None)],
    "shards-last": [(1, None, 10), (2, "column_wise", 20), (2, None, 10), (3, "row_wise", None)],
    "fused": [(2, "row_wise", 10), (3, "table_wise", None)],
}
_CHAINED = {"shards-first": L2, "shards-last": L2, "fused": FUSED}
CASES |= {
    f"{chain}-{number}": Case(
        "full", history="none" if chain == "fused" else "mean", shard=shard, train=_CHAINED[chain], epochs=1,
        kept=chain, stops_at=stop,
    )
    for chain, starts in CHAINS.items()
    for number, (_, shard, stop) in enumerate(starts)
}  # fmt: skip
CASES |= {
    f"{chain}-whole": Case("full", history=CASES[f"{chain}-0"].history, train=train, epochs=1)
    for chain, train in _CHAINED.items()
}


# Smooth: a unit of relu that is on or off by the last bit of a sum changes a gradient by a row's part of it.
MODEL = {"dropout": 0.3, "batch_norm": True, "activation": "sigmoid"}


class Stopped(Exception):
    """In every process at the same step."""


class RecordingTrainer(Trainer):
    """Keeps the loss of every step, over all of its batch."""

    losses: list[float]
    dies_at: int | None
    stops_at: int | None

    def over_processes(self, loss: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        loss, total = super().over_processes(loss, total)
        self.losses.append(float(loss.detach()))
        if self.processes and self.dies_at == len(self.losses) and self.processes.rank == self.processes.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss, total

    def loss(self, batch: Batch) -> Tensor:
        if self.stops_at is not None and len(self.losses) == self.stops_at:
            raise Stopped
        return super().loss(batch)


def run(name: str, out: Path) -> None:
    case, dataset = CASES[name], counted(tiny_dataset(ROWS))
    settings = {
        "batch_size": BATCH,
        "lr": 0.001,
        "patience": 100,
        "precision": "fp32",
        "checkpoint_seconds": 0,
        **case.train,
    }
    config = TrainConfig(max_epochs=case.epochs, evaluations_per_epoch=2, **settings)
    options = TableOptions(gradient=config.gradient, rows=case.rows)
    planned = plan(case.method, dataset.schema.vocabularies, 8, case.budget, options=options, **case.options)
    widths = {"heads": 2, "neurons": 4} if case.model == "armnet" else {"hidden": (32, 16)}
    of_tower = {"hidden": (16, 8)} if case.history == "din" else {}
    model = ModelConfig.from_options(case.model, case.history, {**MODEL, **widths}, of_tower)
    processes = current()
    table = planned.build()
    if case.shard is not None and processes is not None:
        from rectab.swap.torchrec_table import ShardedTable

        fused = config.row_training.optimizer if config.fused_optimizer else None
        table = ShardedTable(planned, [case.shard], torch.device("cpu"), fused)
    kept = None if case.kept is None else out / case.kept
    trainer = RecordingTrainer(dataset, table, model, config, checkpoints=kept, progress="off")
    trainer.losses, trainer.dies_at, trainer.stops_at = [], case.dies_at, case.stops_at
    try:
        trained = trainer.fit()
    except Stopped:
        return
    if trained is not trained.serving():  # where it was sharded, the whole table
        trainer.restart(trained.serving(), trainer.model.state_dict())
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in trainer.model.state_dict().values())).hexdigest()
    rank = 0 if processes is None else processes.rank
    (out / f"{name}.{rank}.txt").write_text(digest)
    logits, metrics = predict(trainer.model, dataset.valid), trainer.evaluate()
    if rank == 0:
        np.savez(out / f"{name}.npz", losses=trainer.losses, logits=logits, auc=metrics["auc"], gauc=metrics["gauc"])


def work(rank: int, port: int, world: int, out: Path, names: list[str]) -> None:
    log = os.open(out / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined():
        for name in names:
            run(name, out)


def main(out: Path, world: int, names: list[str]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    codes: list[int | None] = []
    asked = [(int(at or world), name) for name, _, at in (one.partition("@") for one in names)]
    for count, group in groupby(asked, key=itemgetter(0)):
        codes = started(out, count, [name for _, name in group])
        if any(codes):
            break
    (out / "codes.json").write_text(json.dumps(codes))
    return max(abs(code or 0) for code in codes)


def started(out: Path, world: int, names: list[str]) -> list[int | None]:
    """Exit codes of processes that trained the cases."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=work, args=(rank, port, world, out, names)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))

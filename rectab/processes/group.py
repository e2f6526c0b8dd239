"""The processes of one run, as torchrun starts them: who this one is, and what they tell each other.

There is at most one group at a time, which :func:`joined` makes. All processes run the same code on the same settings;
each of them calls every function of :class:`Processes`, and in the same order, or all of them wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rectab.processes.gather import gather_equal, gather_parts

__all__ = ["ProcessLost", "Processes", "current", "joined", "leads"]

_PATIENCE = timedelta(minutes=30)
"""One process may write a checkpoint or draw breath for minutes. One that ends is noticed at once, not by this."""


class ProcessLost(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Processes:
    """The processes of this run.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are, at least 2.
        local_rank: number of this one on its machine.
        statistics: the group that layers exchange statistics in: apart from the one in which gradients are summed
            meanwhile, so that neither waits for what is meant for the other.
    """

    rank: int
    count: int
    local_rank: int
    statistics: Any

    def share(self, rows: int) -> tuple[int, int]:
        """(first, last) of so many rows that this process has: from first, before last."""
        return self.rank * rows // self.count, (self.rank + 1) * rows // self.count

    def order_of_parts(self, rows: int, batch_size: int) -> np.ndarray:
        """int64 [rows]: which row each is, where every process has put its parts of all batches end to end."""
        starts = range(0, rows, batch_size)
        others = [replace(self, rank=rank) for rank in range(self.count)]
        parts = [np.arange(*other.share(min(batch_size, rows - start))) + start for other in others for start in starts]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def average(self, *values: Tensor) -> list[Tensor]:
        """Scalars, averaged over the processes; the same bits in each of them."""
        mean = torch.stack([value.detach().float() for value in values])
        dist.all_reduce(mean)
        return list((mean / self.count).unbind())

    def joined_rows(self, part: Tensor) -> Tensor:
        """[sum n, *]: the parts [n, *] of all processes in the order of their ranks; n may differ."""
        lengths = gather_equal(torch.tensor(len(part), device=part.device)).tolist()
        return torch.cat(gather_parts(part, lengths))

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over the processes; the same bits in each of them."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def first_says(self, yes: bool) -> bool:
        """What the first process says; on the host, so that none waits for a device."""
        said = torch.tensor(yes)
        dist.broadcast(said, 0)
        return bool(said)

    def agree(self, what: str, value: str) -> None:
        """Raises ValueError in every process unless all of them have the same ``value``."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        other = next((rank for rank, one in enumerate(values) if one != values[0]), None)
        if other is not None:
            raise ValueError(
                f"processes 0 and {other} do not have the same {what}: {values[0]} and {values[other]}; every machine "
                "needs the same files, settings and version of rectab"
            )


_current: Processes | None = None


def current() -> Processes | None:
    """The processes that this one trains with; None if it is alone."""
    return _current


def leads() -> bool:
    """Whether this process writes files and prints; one that is alone does."""
    return _current is None or _current.rank == 0


def _asked_for() -> int:
    """How many processes the environment speaks of, as torchrun sets it; 1 if of none."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return 1
    return int(os.environ["WORLD_SIZE"])


@contextmanager
def joined() -> Iterator[Processes | None]:
    """While it lasts, this process is one of those that torchrun started; None if it was started alone.

    Raises:
        ProcessLost: another process has ended, without a word or with an error of its own, which it tells.
    """
    global _current
    if _asked_for() < 2:
        yield None
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _losses_told():
        dist.init_process_group(backend, timeout=_PATIENCE)
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        statistics = dist.new_group(timeout=_PATIENCE)
        _current = Processes(dist.get_rank(), dist.get_world_size(), local_rank, statistics)
        try:
            yield _current
        finally:
            _current = None
        dist.destroy_process_group()  # not after an error: the others may wait for what will not come


@contextmanager
def _losses_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessLost(
                "another process of this run has ended, or cannot be reached; the same command goes on from the last "
                f"checkpoint of --out, also with another number of processes ({str(error).splitlines()[0]})"
            ) from error
        raise

"""Which device a run is on, and batches that are there when the step wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import torch

from rectab.batch import Batch
from rectab.data.loader import batches
from rectab.data.split import Split
from rectab.processes import current

__all__ = ["batches_on", "one_ahead", "resolve_device"]

SentT = TypeVar("SentT")


def resolve_device(name: str | torch.device) -> torch.device:
    """``cpu``, ``cuda`` (the current GPU), ``cuda:1``, or ``auto``: a GPU if there is one, else the CPU.

    Raises:
        ValueError: another name, or a GPU that is not there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if there else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu, cuda, cuda:NUMBER or auto, got {str(name)!r}")
    if device.type == "cpu":
        return torch.device("cpu")
    processes = current()
    if device.index is None and processes is not None:
        device = torch.device("cuda", processes.local_rank)
    index = torch.cuda.current_device() if device.index is None and there else device.index or 0
    if index >= there:
        found = f"there {'is' if there == 1 else 'are'} {there or 'none'}" + (f" (cuda:0 to {there - 1})" * (there > 0))
        raise ValueError(f"device {str(name)!r}: torch finds no such GPU, {found}; use --device cpu")
    return torch.device("cuda", index)


def batches_on(device: torch.device, split: Split, batch_size: int, **options: Any) -> Iterator[Batch]:
    """:func:`rectab.data.loader.batches` on ``device``.

    For a GPU they are assembled in pinned memory, and each is sent, in a stream of its own, while the step of the one
    before it runs.
    """
    if device.type != "cuda":
        return batches(split, batch_size, **options)
    stream = torch.cuda.Stream(device)

    def send(batch: Batch) -> Batch:
        with torch.cuda.stream(stream):
            return batch.to(device, non_blocking=True)

    def arrive(batch: Batch) -> Batch:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in batch.tensors():
            tensor.record_stream(current)  # its memory is not given to the next batch before the step is done
        return batch

    return one_ahead(batches(split, batch_size, pinned=True, **options), send, arrive)


def one_ahead(source: Iterator[Batch], send: Callable[[Batch], SentT], arrive: Callable[[SentT], Batch]) -> Any:
    """``arrive(send(batch))`` of every batch, where the next one is sent before a batch is given.

    ``source`` is closed when this iterator ends or is closed.
    """
    with closing(source):  # type: ignore[type-var]
        sent: list[SentT] = []
        for batch in source:
            waiting = sent
            sent = [send(batch)]
            if waiting:
                yield arrive(waiting[0])
        if sent:
            yield arrive(sent[0])

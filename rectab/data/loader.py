"""Batches of a split, assembled ahead by one background thread.

The order is a function of (seed, epoch) alone, and a batch a function of (order, batch number): an epoch resumed in the
middle gives the very batches it would have given. Negatives that are drawn anew are a function of (seed, epoch, row).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from rectab.batch import Batch, Share
from rectab.data.negatives import salt_of_epoch
from rectab.data.split import Split

__all__ = ["batches", "num_batches"]


def num_batches(n: int, batch_size: int, drop_singleton: bool = True) -> int:
    """Number of batches that :func:`batches` gives for ``n`` rows."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    whole, rest = divmod(n, batch_size)
    merged = drop_singleton and rest == 1 and whole > 0
    return whole + (rest > 0 and not merged)


def batches(
    split: Split,
    batch_size: int,
    *,
    shuffle_seed: int | None,
    epoch: int = 0,
    start: int = 0,
    drop_singleton: bool = True,
    max_history: int | None = None,
    prefetch: int = 2,
    pinned: bool = False,
    part: Callable[[int], tuple[int, int]] | None = None,
) -> Iterator[Batch]:
    """One epoch of batches.

    Args:
        split: the rows.
        batch_size: rows per batch; the last batch may be smaller.
        shuffle_seed: the order of the rows depends on it and on ``epoch``, on nothing else, and so do negatives that
            the recipe has drawn anew in every epoch; None keeps stored order and stored negatives.
        epoch: number of the epoch.
        start: number of the first batch to give (to resume in the middle of an epoch).
        drop_singleton: a last batch of a single row joins the one before it (batch norm cannot train on one row);
            no row is ever dropped.
        max_history: keep only this many most recent events of every history.
        prefetch: batches assembled ahead by a background thread; 0 assembles in the caller's thread.
        pinned: give them in pinned memory, from which a GPU takes them by itself; needs a GPU.
        part: (first, last) of a batch's so many rows to give, where other processes read the others; may be none. None
            gives all of them.

    Yields:
        Batch of B rows. The thread ends when the iterator ends or is closed; its exceptions are raised here.
    """
    count = num_batches(len(split), batch_size, drop_singleton)
    order = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, epoch]).permutation(len(split))
    salt = None if shuffle_seed is None else salt_of_epoch(shuffle_seed, epoch)

    def assemble(index: int) -> Batch:
        stop = len(split) if index == count - 1 else (index + 1) * batch_size
        rows, share = slice(index * batch_size, stop), None
        if part is not None:
            (first, last), total = part(rows.stop - rows.start), rows.stop - rows.start
            rows, share = slice(rows.start + first, rows.start + last), Share(first, total)
        batch = split.batch(rows if order is None else order[rows], max_history, salt)
        if share is not None:
            batch = replace(batch, share=share)
        return batch.pin_memory() if pinned else batch

    if prefetch < 1:
        return (assemble(index) for index in range(start, count))
    produced = (assemble(index) for index in range(start, count))
    return _ahead(produced, prefetch)


_END = object()


def _ahead(produced: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Run ``produced`` in a thread, at most ``depth`` items ahead."""
    ready: queue.Queue[object] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: object) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in produced:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="rectab-batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            assert isinstance(item, Batch)
            yield item
    finally:
        closed.set()
        thread.join()

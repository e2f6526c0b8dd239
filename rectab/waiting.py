"""Waiting that Ctrl-C ends.

polars handles SIGINT in a way that makes the system take up a blocked wait again, so Python comes to raise its
KeyboardInterrupt only when the wait is over. Whoever waits for long therefore wakes up now and then.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["next_of", "result_of", "worker_threads"]

ItemT = TypeVar("ItemT")

_SECONDS = 0.2


def next_of(items: queue.SimpleQueue[ItemT]) -> ItemT:
    """The next item of a queue."""
    while True:
        try:
            return items.get(timeout=_SECONDS)
        except queue.Empty:
            continue


def result_of(future: Future[ItemT]) -> ItemT:
    """What a future gives, or raises."""
    while not future.done():
        wait([future], timeout=_SECONDS)
    return future.result()


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. Jobs that have not begun are dropped on an error; those that have are waited for, but not on
    Ctrl-C."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
        raise
    pool.shutdown()

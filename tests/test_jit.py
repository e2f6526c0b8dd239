"""How kernels are compiled and launched: one door for all of them, and threads that do not wait for each other."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core.caching import NullCache
from numba.core.registry import CPUDispatcher

import rectab
from rectab import jit
from rectab.ops import numba_support
from rectab.ops.hashing import address_rows


def all_kernels() -> dict[str, CPUDispatcher]:
    found = {}
    for module in pkgutil.walk_packages(rectab.__path__, "rectab."):
        if module.name.split(".")[1] in ("ops", "tables", "data") and "triton" not in module.name:
            contents = vars(importlib.import_module(module.name))
            found |= {f"{v.__module__}.{v.__name__}": v for v in contents.values() if isinstance(v, CPUDispatcher)}
    return found


def test_every_cached_kernel_is_guarded() -> None:
    """Two processes that compile at once must not mix up the code of two signatures, whichever kernel it is."""
    kernels = {name: k for name, k in all_kernels().items() if not isinstance(k._cache, NullCache)}
    assert {name.split(".")[1] for name in kernels} == {"ops", "tables", "data"}
    for name, kernel in kernels.items():
        assert kernel._cache.save_overload.__name__ == "locked_save", name
        assert kernel.targetoptions["nogil"], name


def test_a_kernel_is_saved_only_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(jit._config, "CACHE_DIR", str(tmp_path))

    @jit.kernel
    def total(values: np.ndarray) -> float:
        return values.sum()

    folder = Path(total._cache.cache_path)  # type: ignore[attr-defined]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            called = pool.submit(total, np.ones(3))
            assert wait([called], timeout=2).not_done
            assert not list(folder.glob("*.nbi"))
        assert called.result(timeout=60) == 3.0
    assert list(folder.glob("*.nbi"))


def test_kernels_of_one_thread_run_side_by_side() -> None:
    """A server that looks up from several threads is not one that looks up from one."""
    address_rows(torch.arange(4), *(torch.tensor([n]) for n in (0, 0, 4)))  # numba's threads are started
    meeting = threading.Barrier(2)

    def kernel(threads: int) -> None:
        meeting.wait(timeout=60)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(numba_support.launch, kernel, 1) for _ in range(2)]:
            done.result(timeout=60)


def test_kernels_of_several_threads_run_one_by_one() -> None:
    running, most = 0, 0

    def kernel(threads: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.05)
        running -= 1

    if numba_support.numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba was started with one thread")
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(numba_support.launch, kernel, 2) for _ in range(3)]:
            done.result(timeout=60)
    assert most == 1


def test_a_lookup_does_not_wait_for_kernels_of_other_callers() -> None:
    """While the threads are another's, it runs on the caller's own, with the same result."""
    if numba_support.numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba was started with one thread")
    asked: list[int] = []
    numba_support.launch(lambda threads: None, 1)  # numba's threads are there
    if numba_support.numba.threading_layer() == "workqueue":
        pytest.skip("this layer of threads runs one kernel at a time")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(numba_support.launch_lookup, asked.append, 2).result(timeout=60)
        with numba_support._lock:
            pool.submit(numba_support.launch_lookup, asked.append, 2).result(timeout=60)
            waiting = pool.submit(numba_support.launch, asked.append, 2)
            assert not wait([waiting], timeout=0.05).done, "kernels that change rows take turns"
        waiting.result(timeout=60)
    assert asked == [2, 1, 2]

"""What a sweep's runs share: versions, git commit, processor and threads. Every row carries it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import rectab

__all__ = ["available_cores", "describe_environment", "git_commit", "thread_variables"]

_PACKAGES = ("rectab", "torch", "numpy", "numba", "polars", "triton")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
_SPINS = "1000"


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that hold a process and its libraries to so many threads; set before they are imported.

    By default a thread that waits for another spins for milliseconds. Where other processes want the cores, that is
    time taken from the very thread that is waited for: a training run took ten times as long beside a busy process.
    """
    return dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"GOMP_SPINCOUNT": _SPINS}


def git_commit() -> str | None:
    """Commit of the rectab checkout in use, with ``+`` if files differ from it; None outside a checkout."""
    folder = Path(rectab.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A site-packages folder inside some other repository is no checkout of rectab.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
    return f"{commit}+" if commit and changed else commit


def describe_environment(threads: int) -> dict[str, Any]:
    """Plain data: versions, commit, system, processor, cores, memory in bytes, threads of this run."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": threads,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

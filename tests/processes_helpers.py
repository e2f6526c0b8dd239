"""Runs of the command in several processes, for the tests that start, kill and resume them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from rectab.data import Recipe, prepare


def torchrun(count: int, *arguments: object) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(port)]
    command = [sys.executable, *launcher, "-m", "rectab", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prepared(folder: Path) -> Path:
    """A small prepared data set with clicks that can be learned from."""
    synthetic = {"rows": 3000, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}
    return prepare(Recipe.model_validate({"name": "small", "synthetic": synthetic}), None, folder / "small").path


SETTINGS = {"max_epochs": 5, "batch_size": 128, "patience": 100, "precision": "fp32", "checkpoint_seconds": 0}


def train_arguments(data: Path, out: Path) -> list[object]:
    settings = [f"--set=train.{key}={value}" for key, value in SETTINGS.items()]
    return [
        "train",
        data,
        "--dim",
        4,
        "--out",
        out,
        "--set=model.dropout=0.2",
        "--set=model.activation=sigmoid",
        *settings,
    ]


def wait_for(path: Path, after: int = 0, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.stat().st_mtime_ns > after:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written in {seconds} s")

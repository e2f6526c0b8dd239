"""A stand-in for training, whose results are a deterministic function of the configuration, and its data set."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rectab.schema import Vocabulary
from rectab.sweep.config import load_config
from rectab.sweep.grid import DatasetInfo, RunSpec
from rectab.sweep.store import RunStore
from rectab.sweep.sweep import SweepPlan
from rectab.sweep.worker import Runner, execute
from rectab.tables import plan

RUNNER = "sweep_fakes:fake_run"
ENVIRONMENT = {"threads": 2, "versions": {"rectab": "0.1.0"}, "commit": "abc"}

CONFIG = """
budgets = ["50%", "10%", "2%"]
seeds = [0, 1, 2]
embedding_dim = 8

[[datasets]]
path = "prepared"

[[models]]
model = "deepfm"

[[methods]]
method = "full"

[[methods]]
method = "hashed"

[[methods]]
method = "unified"

[training]
lr = 0.001
"""


def fake_dataset(name: str = "clicks", best_auc: float | None = 0.81) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        path=f"prepared/{name}",
        fingerprint=f"fingerprint-of-{name}",
        vocabularies={"user": 2000, "item": 5000, "city": 150},
        best_auc=best_auc,
        rows={"train": 70_000, "valid": 10_000, "test": 20_000},
        positive_rate={"train": 0.25, "valid": 0.24, "test": 0.24},
        slice_by="item",
    )


def noise(*parts: object) -> float:
    """Uniform in -1..1, a function of its arguments."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**63 - 1


def fake_run(spec: RunSpec, work: Path) -> dict[str, Any]:
    """Loses more the fewer bytes there are; hashed twice as much as unified."""
    planned = plan(
        spec.method,
        [Vocabulary(name, size) for name, size in fake_dataset().vocabularies.items()],
        spec.embedding_dim,
        spec.budget,
        **spec.method_options,
    )
    _spring_trap(spec)
    steepness = {"full": 0.0, "hashed": 0.012, "unified": 0.006}[spec.method]
    loss = steepness * -math.log10(planned.ratio)
    gain = 0.01 * (spec.training.get("lr", 0.001) - 0.001) / 0.001
    auc = 0.79 - loss + gain + 0.0004 * noise(spec.seed) + 0.0002 * noise(spec.hash)
    slices = {"head": 0.81, "torso": 0.79 - loss, "tail": 0.74 - 2 * loss, "unseen": 0.68}
    metrics = {"auc": auc, "gauc": auc - 0.02, "logloss": 0.45 - (auc - 0.79), "calibration": 1.01}
    rows = {"head": 7000, "torso": 6500, "tail": 5500, "unseen": 1000}
    sliced = {
        name: {"rows": rows[name], "auc": value + 0.001 * noise(name, spec.seed)} for name, value in slices.items()
    }
    return {
        "valid": {"auc": auc + 0.002, "logloss": 0.44},
        "test": None if spec.role == "trial" else metrics,
        "slices": {} if spec.role == "trial" else sliced,
        "table": planned.to_json(),
        "dense_bytes": 640_000,
        "samples": 350_000,
        "budget_bytes": planned.budget_bytes,
        "serving_bytes": planned.serving.bytes,
        "training_bytes": planned.training.bytes,
        "train_seconds": 20 + 3 * noise(spec.hash),
        "samples_per_second": 90_000 + 9_000 * noise(spec.hash, 1),
        "peak_memory_bytes": 400_000_000 + planned.training.bytes,
        "precision": "fp32",
        "gradient": "row",
        "kernel": "numba",
        "device": "cpu",
    }


def placed_run(spec: RunSpec, work: Path) -> dict[str, Any]:
    """Says where it was trained, and takes long enough for every worker to get some runs."""
    time.sleep(0.2)
    return fake_run(spec, work) | {"device": spec.device}


def finished_sweep(
    folder: Path,
    config: str,
    runner: Runner = fake_run,
    failures: Callable[[RunSpec], str | None] = lambda spec: None,
) -> SweepPlan:
    """A sweep of ``config`` in ``folder``, run to its end but for its report; its results lie in ``folder / "out"``.

    Args:
        failures: the error that a run is to end with, or None.
    """
    (folder / "sweep.toml").write_text(config)
    made = SweepPlan(
        load_config(folder / "sweep.toml"), [fake_dataset()], RunStore(folder / "out"), "rectab sweep sweep.toml"
    )
    made.save()
    for spec in made.runs():
        record = execute(spec, folder / "work", runner, ENVIRONMENT)
        if error := failures(spec):
            record |= {"status": "failed", "error": error}
        made.store.write_run(record)
    return made


def _spring_trap(spec: RunSpec) -> None:
    """Misbehave where the test asks for it, by the environment variable SWEEP_TRAP: JSON with method, kind, ..."""
    trap = json.loads(os.environ.get("SWEEP_TRAP", "{}"))
    time.sleep(trap.get("sleep", 0))
    if spec.method != trap.get("method"):
        return
    if trap["kind"] == "raise":
        raise FloatingPointError("the loss became NaN in step 17")
    if trap["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

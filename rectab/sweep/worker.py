"""A process that runs what a sweep sends it, one run at a time: ``python -m rectab.sweep.worker``.

Requests come as JSON lines on standard input; each answer is one JSON line on the original standard output. A crash
(out of memory, a bug in a kernel) ends this process only. When the sweep itself is killed, standard input closes and
the process ends at once, so that no orphan goes on writing.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rectab.sweep.environment import describe_environment
from rectab.sweep.grid import RunSpec
from rectab.sweep.store import FORMAT_VERSION
from rectab.tables.family import InfeasibleBudget

__all__ = ["DEFAULT_RUNNER", "Runner", "base_record", "execute", "load_runner"]

Runner = Callable[[RunSpec, Path], dict[str, Any]]
"""Trains one run: (spec, folder for checkpoints) -> results as plain data (see :mod:`rectab.sweep.runner`)."""

DEFAULT_RUNNER = "rectab.sweep.runner:train_run"


def load_runner(reference: str) -> Runner:
    """The function named by ``module:function``."""
    module, _, name = reference.partition(":")
    runner: Runner = getattr(importlib.import_module(module), name)
    return runner


def base_record(spec: RunSpec, environment: dict[str, Any]) -> dict[str, Any]:
    """The record of a run before anything is known of how it went."""
    return {
        "format": FORMAT_VERSION,
        "hash": spec.hash,
        "spec": spec.to_json(),
        "status": "failed",
        "error": None,
        "traceback": None,
        "smallest_feasible_bytes": None,
        "result": None,
        "environment": environment,
    }


def execute(spec: RunSpec, work: Path, runner: Runner, environment: dict[str, Any]) -> dict[str, Any]:
    """Run and describe how it went: ``ok``, ``infeasible`` or ``failed``. Never raises for what a run raises."""
    record = base_record(spec, environment)
    record["started"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    begin = time.perf_counter()
    try:
        result = runner(spec, work)
        problem = _problem_of(spec, result)
        if problem:  # a retry must train anew, not read this result back
            shutil.rmtree(work, ignore_errors=True)
        record |= {"result": result, "status": "failed" if problem else "ok", "error": problem}
    except InfeasibleBudget as error:
        record |= {"status": "infeasible", "error": str(error), "smallest_feasible_bytes": error.smallest_bytes}
    except Exception as error:
        record |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    record["wall_seconds"] = round(time.perf_counter() - begin, 3)
    return record


def _problem_of(spec: RunSpec, result: dict[str, Any]) -> str | None:
    """Why a finished run must not count, or None."""
    split = "valid" if spec.role == "trial" else "test"
    auc = (result[split] or {}).get("auc")
    if auc is None or not 0 <= auc <= 1:  # also catches NaN
        return f"AUC of the {split} split is {auc}: not a number between 0 and 1"
    budget = result.get("budget_bytes")
    beside = (result.get("map_bytes") or 0) if spec.count_ids else 0
    if budget is not None and result["serving_bytes"] + beside > budget:
        held = f" and the id map {beside}" if beside else ""
        return f"the table takes {result['serving_bytes']} bytes{held}, more than its budget of {budget}"
    return None


def _read_requests(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(1)  # the sweep is gone or closed us; whatever runs here must not go on


def main() -> None:
    """Serve requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    runner = load_runner(sys.argv[1])
    threads = int(sys.argv[2])
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    environment = describe_environment(threads)
    while True:
        request = json.loads(requests.get())
        with redirect_stdout(sys.stderr):
            record = execute(RunSpec.from_json(request["spec"]), Path(request["work"]), runner, environment)
        # NaN is valid to python's JSON reader on the other side, which replaces it before it is written to a file.
        answers.write(json.dumps(record) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""All runs of a stream file: one JSON file each, finished ones are kept, stopped ones go on.

The same command may run in several processes on one folder: each takes runs that no other has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rectab.atomic_file import write_atomic
from rectab.plain import parse_json
from rectab.stream.config import StreamConfig, StreamSpec, expand
from rectab.stream.run import run_stream
from rectab.stream.source import Source, Universe, source_of, universe_of
from rectab.sweep.environment import describe_environment
from rectab.sweep.store import SweepFolderError, digest, exclusive
from rectab.training.errors import CheckpointError, TrainingError
from rectab.training.result import without_nan

__all__ = ["FORMAT_VERSION", "Runs", "read_runs", "run_all"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Runs:
    """The folder of a stream: ``stream.json``, ``runs/HASH.json``, ``work/HASH/``, ``report.html``, ``report.md``."""

    folder: Path
    config: StreamConfig

    def key(self, spec: StreamSpec) -> str:
        """Names the run's file: equal for runs that would compute the same."""
        shared = self.config.model_dump(exclude={"title", "arms", "budgets", "seeds"})
        arm = spec.arm.model_dump(exclude={"name"})
        return digest({"format": FORMAT_VERSION, **shared, "arm": arm, "budget": spec.budget, "seed": spec.seed})

    def read(self, spec: StreamSpec) -> dict[str, Any] | None:
        """The record of a finished run; None if there is none that can be read."""
        try:
            record: dict[str, Any] = parse_json((self.folder / "runs" / f"{self.key(spec)}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if record.get("format") == FORMAT_VERSION and "status" in record else None

    def write(self, spec: StreamSpec, record: dict[str, Any]) -> None:
        text = json.dumps(without_nan({"format": FORMAT_VERSION, **record}), indent=1, allow_nan=False)
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "runs" / f"{self.key(spec)}.json", text + "\n")


def run_all(runs: Runs, tell: Callable[[str], None]) -> int:
    """Run what has not been run. Returns the number of failed runs; those that another process holds are left to it."""
    streams: dict[int, tuple[Source, Universe]] = {}
    failed = 0
    for spec in expand(runs.config):
        record = runs.read(spec)
        if record is None or record["status"] == "failed":
            try:
                with exclusive(runs.folder / "work" / runs.key(spec)):
                    record = runs.read(spec)
                    if record is None or record["status"] == "failed":
                        record = _run(runs, spec, streams)
                        tell(_line(spec, record))
            except SweepFolderError:
                continue
        failed += record["status"] != "ok"
    return failed


def _run(runs: Runs, spec: StreamSpec, streams: dict[int, tuple[Source, Universe]]) -> dict[str, Any]:
    if spec.seed not in streams:
        source = source_of(runs.config, spec.seed)
        streams[spec.seed] = (source, universe_of(source))
    source, universe = streams[spec.seed]
    work, begin = runs.folder / "work" / runs.key(spec), time.perf_counter()
    record: dict[str, Any] = {
        "arm": spec.arm.model_dump(),
        "label": spec.arm.label,
        "budget": spec.budget,
        "seed": spec.seed,
        "environment": describe_environment(torch.get_num_threads()),
    }
    try:
        try:
            record |= {"status": "ok", **run_stream(spec, runs.config, source, universe, work)}
        except CheckpointError:
            (work / "state.safetensors").unlink()
            record |= {"status": "ok", **run_stream(spec, runs.config, source, universe, work)}
    except (TrainingError, ValueError) as error:
        record |= {"status": "failed", "error": str(error)}
    record["seconds"] = time.perf_counter() - begin
    runs.write(spec, record)
    (work / "state.safetensors").unlink(missing_ok=True)
    return record


def _line(spec: StreamSpec, record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{spec.describe()}: {record['error']}"
    aucs = [told["auc"] for told in record["periods"]]
    return f"{spec.describe()}: AUC {sum(aucs) / len(aucs):.4f}, {record['bytes']:,} bytes, {record['seconds']:.1f} s"


def read_runs(runs: Runs) -> list[dict[str, Any]]:
    """The records of the present configuration, in its order; names are those of the file as it is now."""
    found = [(spec, runs.read(spec)) for spec in expand(runs.config)]
    return [{**record, "label": spec.arm.label} for spec, record in found if record is not None]

"""The run files of a sweep: one JSON file per run, written whole or not at all, named by what was run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rectab.atomic_file import write_atomic
from rectab.plain import parse_json, read_plain, read_value
from rectab.training.result import without_nan
from rectab.training.row_scores import SCORES_FILE

__all__ = ["FORMAT_VERSION", "RunStore", "SweepFolderError", "digest", "exclusive"]

FORMAT_VERSION = 1


class SweepFolderError(ValueError):
    """The folder of a sweep is not one, or is in use."""


def digest(content: Any) -> str:
    """16 hex digits of plain data, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Environment:
    threads: int
    versions: dict[str, str]
    commit: str | None


@dataclass(frozen=True)
class _Record:
    """What every run file holds."""

    format: int
    hash: str
    spec: dict[str, Any]
    status: Literal["ok", "failed", "infeasible"]
    error: str | None
    smallest_feasible_bytes: int | None
    result: dict[str, Any] | None
    environment: dict[str, Any]
    wall_seconds: float | None = None
    started: str | None = None

    def __post_init__(self) -> None:
        read_plain(_Environment, self.environment, "environment", extra=True)


@dataclass(frozen=True)
class _Encoded:
    """What is reported of a table that was encoded after training."""

    embedding_dim: int
    full_valid: dict[str, float | None]
    expected: dict[str, float | None]
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Result:
    """What the results of a finished run need to hold; the rest may be missing, but is of these types."""

    valid: dict[str, float | None]
    test: dict[str, float | None] | None
    slices: dict[str, dict[str, float | None]]
    table: dict[str, Any]
    serving_bytes: int
    training_bytes: int | None = None
    dense_bytes: int | None = None
    map_bytes: int | None = None
    peak_memory_bytes: int | None = None
    samples: int | None = None
    train_seconds: float | None = None
    samples_per_second: float | None = None
    precision: str | None = None
    gradient: str | None = None
    kernel: str | None = None
    device: str = "cpu"
    encoded: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        read_value(dict[str, Any], self.table.get("config"), "table.config")
        if self.encoded is not None:
            read_plain(_Encoded, self.encoded, "encoded", extra=True)


@dataclass(frozen=True)
class _Sweep:
    """What ``sweep.json`` holds."""

    format: int
    command: str
    config: dict[str, Any]
    datasets: list[Any]


@dataclass(frozen=True)
class RunStore:
    """The files of one sweep folder.

    Layout::

        sweep.json          the sweep as it was last started: configuration, data sets, command
        runs/HASH.json      one finished run
        runs/HASH.npz       what it scored the test rows with, to compare runs row by row
        work/HASH/          checkpoints of a run that is not finished
        trained/            finished trainings that several runs share, until the sweep is complete
        data/               data sets prepared from recipes
        results.parquet, trials.parquet, report.html, report.md

    Attributes:
        folder: the sweep's folder.
    """

    folder: Path

    def run_path(self, key: str) -> Path:
        return self.folder / "runs" / f"{key}.json"

    def work_path(self, key: str) -> Path:
        return self.folder / "work" / key

    def scores_path(self, key: str) -> Path:
        return self.folder / "runs" / f"{key}.npz"

    def keep_scores(self, key: str) -> None:
        """Take the scores of the test rows from the folder that a run was made in, if it left any."""
        made = self.work_path(key) / SCORES_FILE
        if made.exists():
            self.scores_path(key).parent.mkdir(parents=True, exist_ok=True)
            made.replace(self.scores_path(key))

    @property
    def trained_path(self) -> Path:
        return self.folder / "trained"

    def write_run(self, record: dict[str, Any]) -> None:
        """Write the record of a finished run; ``record["hash"]`` names it."""
        text = json.dumps(without_nan(record), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(self.run_path(record["hash"]), text + "\n")

    def read_run(self, key: str) -> dict[str, Any] | None:
        """The record of a run, or None if there is none that can be read (it is then run again)."""
        try:
            record: dict[str, Any] = parse_json(self.run_path(key).read_text(encoding="utf-8"))
            told = read_plain(_Record, record, extra=True)
            if told.status == "ok":
                read_plain(_Result, told.result, extra=True)
        except (OSError, ValueError):
            return None
        return record if told.format == FORMAT_VERSION and told.hash == key else None

    def stale_runs(self, current: set[str]) -> list[str]:
        """Hashes of run files that the present configuration does not ask for, sorted."""
        return sorted(path.stem for path in self.folder.glob("runs/*.json") if path.stem not in current)

    def write_sweep(self, content: dict[str, Any]) -> None:
        write_atomic(self.folder / "sweep.json", json.dumps(without_nan(content), indent=1, allow_nan=False) + "\n")

    def read_sweep(self) -> dict[str, Any]:
        """What :meth:`write_sweep` wrote.

        Raises:
            SweepFolderError: if the folder holds no sweep of this version.
        """
        path = self.folder / "sweep.json"
        try:
            content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
            told = read_plain(_Sweep, content, extra=True)
        except OSError:
            raise SweepFolderError(f"{self.folder}: no sweep.json; is it the --out folder of rectab sweep?") from None
        except ValueError as error:
            raise SweepFolderError(
                f"{path}: damaged ({error}); start the sweep again, finished runs are kept"
            ) from None
        if told.format != FORMAT_VERSION:
            raise SweepFolderError(f"{path}: written by another version of rectab; start the sweep again")
        return content


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the sweep folder for this process; released by the system even if the process is killed.

    Raises:
        SweepFolderError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SweepFolderError(f"{folder}: another sweep is running in this folder") from None
        yield

"""Worker processes of a sweep: as many as jobs, each replaced when it crashes."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

from rectab.sweep.environment import available_cores, describe_environment, thread_variables
from rectab.sweep.grid import RunSpec
from rectab.sweep.store import RunStore
from rectab.sweep.worker import base_record
from rectab.waiting import next_of

__all__ = ["run_all"]

_ERROR_TAIL = 4000
"""Characters of a crashed worker's standard error that its record keeps."""


class _Worker:
    """One worker process and its pipes; started at the first run and again after a crash."""

    def __init__(self, runner: str, threads: int, store: RunStore, device: str | None) -> None:
        self.runner, self.threads, self.store, self.device = runner, threads, store, device
        self.stopped = False
        self.process: subprocess.Popen[str] | None = None
        self.errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see stop

    def run(self, spec: RunSpec) -> dict[str, Any] | None:
        """The record of a run; a crash of the process is a failed one. None if it was stopped."""
        if self.device is not None:
            spec = replace(spec, device=self.device)
        process = self.process or self._start()
        self.errors.truncate(0)
        self.errors.seek(0)
        request = {"spec": spec.to_json(), "work": str(self.store.work_path(spec.hash))}
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer.endswith("\n"):
            record: dict[str, Any] = json.loads(answer)
            return record
        if self.stopped:
            return None
        self.process = None
        return self._crashed(spec, process.wait())

    def stop(self) -> None:
        """Kill the process; what it was running has no file and runs again next time."""
        self.stopped = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | thread_variables(self.threads)
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        # Standard error goes to a file: it would tear the progress bar, and a crash is explained by it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rectab.sweep.worker", self.runner, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then decides
        )
        return self.process

    def _crashed(self, spec: RunSpec, code: int) -> dict[str, Any]:
        record = base_record(spec, describe_environment(self.threads))
        self.errors.seek(0)
        record["traceback"] = self.errors.read()[-_ERROR_TAIL:] or None
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; perhaps out of memory: fewer --jobs leave more for each" if -code == signal.SIGKILL else ""
            record["error"] = f"the worker process was killed by {name}{hint}"
        else:
            record["error"] = f"the worker process ended with exit code {code}"
        return record


def run_all(
    specs: Sequence[RunSpec],
    store: RunStore,
    runner: str,
    jobs: int,
    threads: int | None = None,
    devices: Sequence[str] = (),
) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
    """Run specs in ``jobs`` processes; each record is on disk before it is yielded, in order of finishing.

    Args:
        specs: what to run.
        store: where records go.
        runner: ``module:function``, see :mod:`rectab.sweep.worker`.
        jobs: processes at a time.
        threads: of each process; None shares the cores out evenly.
        devices: each process trains on one of them, in turn; none: every run is where it says.
    """
    jobs = max(1, min(jobs, len(specs)))
    threads = threads or max(1, available_cores() // jobs)
    todo: queue.SimpleQueue[RunSpec] = queue.SimpleQueue()
    for spec in specs:
        todo.put(spec)
    done: queue.SimpleQueue[tuple[RunSpec, dict[str, Any]] | BaseException] = queue.SimpleQueue()
    places = list(islice(cycle(devices), jobs)) if devices else [None] * jobs
    workers = [_Worker(runner, threads, store, place) for place in places]

    def serve(worker: _Worker) -> None:
        try:
            while not worker.stopped:
                spec = todo.get_nowait()
                record = worker.run(spec)
                if record is None or worker.stopped:
                    return
                store.keep_scores(spec.hash)  # before the record: a run that is there has them
                store.write_run(record)
                if record["status"] != "failed":
                    shutil.rmtree(store.work_path(spec.hash), ignore_errors=True)
                done.put((spec, record))
        except queue.Empty:
            pass
        except BaseException as error:  # such as a full disk: the sweep must hear of it
            done.put(error)

    serving = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    for thread in serving:
        thread.start()
    try:
        for _ in specs:
            item = next_of(done)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        for worker in workers:
            worker.stop()

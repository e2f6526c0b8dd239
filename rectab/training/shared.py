"""Trainings that several runs share: a folder of finished runs, each trained once however many ask for it.

A run is known by what it is (data, model, table, settings), not by its folder's name, so any folder of finished runs
will do: what fits is read, and what is missing is trained beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rectab.training.errors import CheckpointError
from rectab.training.finished import RESULT_FILE, identity_of, load_result

__all__ = ["SharedRuns"]

ValueT = TypeVar("ValueT")


class SharedRuns:
    """A folder of finished runs.

    Args:
        folder: each of its folders holds a run, see ``rectab train --out``; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: tuple[Hashable, Any] | None = None

    def last(self, key: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """What ``make`` gave for this key, if it is the key that was asked for last; else it is made. So runs that are
        encoded of the same trainings, one after another, open them once."""
        if self._last is None or self._last[0] != key:
            self._last = None  # what was kept may be large
            self._last = (key, make())
        value: ValueT = self._last[1]
        return value

    def find(self, identity: Mapping[str, Any]) -> Path | None:
        """The folder of the finished run that is this one (:func:`rectab.training.finished.identity_of`), or None."""
        for path in sorted(self.folder.glob(f"*/{RESULT_FILE}")):
            try:
                result = load_result(path.parent)
                if result is not None and identity_of(result) == identity:
                    return path.parent
            except (ValueError, TypeError, AttributeError, KeyError):  # damaged, or of another version: no run of ours
                continue
        return None

    def get(self, identity: Mapping[str, Any], train: Callable[[Path], object]) -> Path:
        """The folder of the finished run that is this one; it is trained if there is none.

        Processes that ask for one run at the same time wait for the one that trains it. What a killed process has
        trained so far, the next one goes on with.

        Args:
            identity: of the run.
            train: trains it into a folder, whose checkpoints it goes on from.
        """
        text = json.dumps(identity, sort_keys=True)
        path = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        with _locked(path.with_suffix(".lock")):
            found = self.find(identity)
            if found is not None:
                return found
            try:
                train(path)
            except CheckpointError:  # damaged, or made with another number of threads
                shutil.rmtree(path)
                train(path)
        return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock for this process; the system releases it even if the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Checkpoints of a run: where its current stage stands, and how its earlier stages ended.

A folder holds ``run.json`` (which run it is), ``stage-000.safetensors`` for every stage that ended, and for the stage
that runs ``current.safetensors`` and the best weights it refers to; where processes share out the rows, a folder of
them beside each of both. Every file is written beside its place and renamed, and the best weights and the rows are
written before the state that refers to them, so a kill at any moment leaves a whole state.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rectab.atomic_file import remove_drafts, write_atomic
from rectab.plain import parse_json
from rectab.processes import current, leads
from rectab.training.checkpointed import comparable
from rectab.training.errors import CheckpointError
from rectab.training.state import load_state, restored_from, save_state

__all__ = ["Checkpoints", "differences", "remove_checkpoints", "rows_beside"]

_COST_SHARE = 20.0
_BEST = "best-[0-9]*.safetensors"
_ROWS = "*-[0-9]*.rows"
_ASKED_EVERY = 16


class _Absent:
    """Stands for a setting that is not there; None is a value that settings have."""

    def __repr__(self) -> str:
        return "not set"


_ABSENT = _Absent()


class Checkpoints:
    """The checkpoints of one run; does nothing without a folder. Of several processes the first writes, all read.

    Args:
        folder: where they lie; None keeps none.
        run: what the run is, as plain data; checkpoints of another run are refused.
        seconds: least time between two checkpoints of a stage, and at most a twentieth of the time is spent on them; 0
            writes one after every step.

    Raises:
        CheckpointError: the folder holds another run.
    """

    def __init__(self, folder: Path | None, run: dict[str, Any], seconds: float) -> None:
        self.folder = folder
        self.writes = leads()
        self._pause = seconds
        self._asks_seldom = seconds > 0
        self._written = time.perf_counter()
        self._best_saved: str | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        identity = folder / "run.json"
        text = json.dumps(run, indent=1, sort_keys=True)
        if not identity.exists():
            if self.writes:
                write_atomic(identity, text)
        elif other := differences(*comparable(_read(identity), json.loads(text))):
            raise CheckpointError(
                f"{folder}: holds the checkpoints of a run with other settings ({'; '.join(other)}); use another "
                f"folder, or delete this one"
            )
        elif "processes" in run and self.writes:
            write_atomic(identity, text)  # from now on its numbers are those of several

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint; longer where writing one takes long."""
        return self.folder is not None and self.writes and time.perf_counter() - self._written >= self._pause

    def due_together(self, step: int) -> bool:
        """:meth:`due` of the first process, as all of them hear of it; the same answer in each. It is asked seldom."""
        processes = current()
        if self.folder is None or processes is None or (self._asks_seldom and step % _ASKED_EVERY):
            return False
        return processes.first_says(self.due())

    def save_current(
        self,
        stage_index: int,
        state: dict[str, Any],
        best: dict[str, Any] | None,
        best_id: int,
        save_rows: Callable[[Path, bool], None] | None = None,
    ) -> None:
        """Write where a stage stands.

        Args:
            stage_index: which stage.
            state: where it stands.
            best: its best weights.
            best_id: the evaluation that they are from.
            save_rows: writes the rows into a folder, those of now with their state (False) or the best (True), where
                processes share them out; all of them call it then.
        """
        if self.folder is None:
            return
        begin = time.perf_counter()
        best_name = None
        if best is not None:
            # Another name where rows are apart: a run that changes to or from that writes its best weights again.
            apart = "" if save_rows is None else "-apart"
            best_name = f"best-{stage_index:03d}-{best_id:06d}{apart}.safetensors"
            if best_name != self._best_saved:
                if save_rows is not None:
                    save_rows(rows_beside(self.folder / best_name), True)
                if self.writes:
                    save_state(self.folder / best_name, best)
                self._best_saved = best_name
        rows_name = None
        if save_rows is not None:
            rows_name = f"current-{stage_index:03d}-{state['state']['step']:09d}.rows"
            save_rows(self.folder / rows_name, False)
        self._written = time.perf_counter()
        if not self.writes:
            return
        told = {"stage_index": stage_index, "best": best_name, "rows": rows_name, **state}
        save_state(self.folder / "current.safetensors", told)
        self._remove_best(but=best_name, rows=rows_name)
        self._written = time.perf_counter()
        if self._pause:
            self._pause = max(self._pause, (self._written - begin) * _COST_SHARE)

    def load_current(self, stage_index: int) -> tuple[Path, dict[str, Any], dict[str, Any] | None] | None:
        """(file, state, best weights) of a stage that was interrupted; None if there is none."""
        path = None if self.folder is None else self.folder / "current.safetensors"
        if path is None or not path.exists():
            return None
        state = load_state(path)
        with restored_from(path):
            if state["stage_index"] != stage_index:
                return None
            best = self._best_saved = state["best"]
            if best is not None and not _is_named(best, _BEST):
                raise ValueError(f"its best weights are said to be {best!r}")
            rows = state.setdefault("rows", None)  # there was none of before there were shards
            if rows is not None and not _is_named(rows, _ROWS):
                raise ValueError(f"its rows are said to be {rows!r}")
        return path, state, None if best is None else load_state(path.with_name(best))

    def save_stage(self, stage_index: int, state: dict[str, Any]) -> None:
        """Write how a stage ended; its current state is no longer needed."""
        if self.folder is None or not self.writes:
            return
        save_state(self._stage_path(stage_index), state)
        (self.folder / "current.safetensors").unlink(missing_ok=True)
        self._remove_best()

    def load_stage(self, stage_index: int) -> tuple[Path, dict[str, Any]] | None:
        """(file, how a stage ended); None if it has not."""
        if self.folder is None or not self._stage_path(stage_index).exists():
            return None
        return self._stage_path(stage_index), load_state(self._stage_path(stage_index))

    def remove(self) -> None:
        """The run is over and its result is written: delete its checkpoints."""
        if self.folder is not None and self.writes:
            remove_checkpoints(self.folder)

    def _stage_path(self, stage_index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"stage-{stage_index:03d}.safetensors"

    def _remove_best(self, but: str | None = None, rows: str | None = None) -> None:
        """Delete best weights and folders of rows, but those named."""
        assert self.folder is not None
        for path in self.folder.glob(_BEST):
            if path.name != but:
                path.unlink(missing_ok=True)
        kept = () if rows is None else (rows, rows_beside(self.folder / str(but)).name)
        for path in self.folder.glob(_ROWS):
            if path.name not in kept:
                shutil.rmtree(path)


def rows_beside(best: Path) -> Path:
    """The folder of the rows that belong to a file of best weights, where processes share out the rows."""
    return best.with_suffix(".rows")


def _is_named(name: Any, pattern: str) -> bool:
    """Whether it is the name of a file in the folder, and of the kind."""
    return fnmatch(name, pattern) and Path(name).name == name


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in ``folder``, with what a killed run was writing, and the folder if it is empty then."""
    if not folder.is_dir():
        return
    remove_drafts(folder)
    for path in folder.glob(_ROWS):
        shutil.rmtree(path)
    for pattern in ("stage-*.safetensors", "current.safetensors", _BEST, "rows-*.journal", "run.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def differences(kept: Any, given: Any, name: str = "") -> list[str]:
    """``name: kept there, given here`` of every setting that differs between two nested dicts of plain data."""
    if not (isinstance(kept, dict) and isinstance(given, dict)):
        return [] if kept == given else [f"{name}: {kept!r} there, {given!r} here"]
    found = []
    for key in sorted(kept.keys() | given.keys()):
        inner = f"{name}.{key}" if name else key
        found += differences(kept.get(key, _ABSENT), given.get(key, _ABSENT), inner)
    return found


def _read(identity: Path) -> Any:
    try:
        return parse_json(identity.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{identity}: damaged ({error}); delete its folder to start the run again") from error

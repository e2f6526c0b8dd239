"""How a sweep shows that it moves: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rectab.sweep.grid import RunSpec
from rectab.tables.budget import format_bytes

__all__ = ["SweepProgress"]

_STYLES = {"ok": "green", "failed": "bold red", "infeasible": "yellow"}


class SweepProgress:
    """An overall bar and a line per finished run.

    Args:
        total: runs of the sweep, finished ones included.
        tuned: training settings that trials try; a trial's line says its own.
        console: where to write.
    """

    def __init__(self, total: int, tuned: Sequence[str] = (), console: Console | None = None) -> None:
        self.console = console or Console()
        self.tuned = tuned
        self.total, self.done, self.before = total, 0, 0
        self.begin = time.monotonic()
        self.bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("runs", total=total)

    def __enter__(self) -> SweepProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def skip(self, runs: int) -> None:
        """Count runs that were finished before."""
        self.done += runs
        self.before += runs
        self.bar.update(self.task, completed=self.done)
        if runs:
            self.say(f"{runs} of {self.total} runs are there already")

    def finished(self, spec: RunSpec, record: dict[str, Any]) -> None:
        """Count a run and say how it went."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        status = record["status"]
        line = f"[{_STYLES[status]}]{status:<10}[/] {escape(spec.describe(self.tuned))}{escape(_outcome(spec, record))}"
        if not self.console.is_terminal:
            line = f"{escape(f'[{self.done}/{self.total}{self._left()}]')} {line}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        """``, about 3 min left``, from the runs of this process."""
        ran = self.done - self.before
        seconds = (time.monotonic() - self.begin) / ran * (self.total - self.done)
        if self.done >= self.total:
            return ""
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def _outcome(spec: RunSpec, record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f": {record['error']}"
    result = record["result"]
    split = "valid" if spec.role == "trial" else "test"
    auc, size = result[split]["auc"], format_bytes(result["serving_bytes"])
    if result.get("map_bytes"):
        size += f" and an id map of {format_bytes(result['map_bytes'])}"
    return f": {split} AUC {auc:.4f}, {size}, {record['wall_seconds']:.0f} s"

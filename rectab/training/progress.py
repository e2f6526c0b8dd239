"""What a run says while it trains: a rich progress bar, plain lines, or nothing."""

from __future__ import annotations

import sys
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ProgressMode", "Reporter"]

ProgressMode = Literal["auto", "bar", "plain", "off"]


class Reporter:
    """Reports stages, steps and evaluations on standard error.

    Args:
        mode: ``bar``, ``plain`` (a line for each evaluation), ``off``, or ``auto``: a bar on a terminal, else off.
    """

    def __init__(self, mode: ProgressMode = "auto") -> None:
        if mode not in ("auto", "bar", "plain", "off"):
            raise ValueError(f"progress must be 'auto', 'bar', 'plain' or 'off', got {mode!r}")
        self.mode = ("bar" if sys.stderr.isatty() else "off") if mode == "auto" else mode
        self._bar: Progress | None = None

    def start(self, stage: str, total_steps: int, done: int = 0) -> None:
        """A stage begins (or goes on at step ``done``)."""
        self._stage = stage
        if self.mode != "bar":
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self._task = self._bar.add_task(stage, total=total_steps, completed=done, note="")
        self._bar.start()

    def step(self, done: int) -> None:
        """``done`` steps of the stage are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def evaluation(self, epoch: float, loss: float, metrics: dict[str, float], best: bool) -> None:
        """An evaluation on validation."""
        names = [name for name in metrics if name in ("auc", "gauc", "logloss", "mse") or "@" in name]
        shown = " ".join(f"{name} {metrics[name]:.5f}" for name in names)
        note = f"epoch {epoch:.2f} loss {loss:.5f} {shown}{' *' if best else ''}"
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif self.mode == "plain":
            print(f"{self._stage}: {note}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """The stage is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

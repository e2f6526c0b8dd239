"""The best rows as an undo log in a file, instead of a copy in memory: what rows were before they were first written
since the best evaluation (:mod:`rectab.optim.journal`)."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rectab.optim import RowOptimizer
from rectab.optim.journal import RowJournal

__all__ = ["BestRows"]


class BestRows:
    """Of all stores of a row optimizer.

    Memory: a byte a row.

    Args:
        optimizer: whose rows.
        folder: where the log lies: that of the checkpoints, if there is one; None for a temporary one.

    Raises:
        ValueError: another optimizer than a row optimizer trains the rows.
    """

    def __init__(self, optimizer: RowOptimizer | None, folder: Path | None) -> None:
        if optimizer is None:
            raise ValueError("best_weights 'log' needs a row optimizer; use gradient 'row'")
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self._folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self._rows = {name: list(updater.store.tensors.values()) for name, updater in optimizer.rows.items()}
        self._log: RowJournal | None = None
        self._told = {name: updater.before_write for name, updater in optimizer.rows.items()}
        for name, updater in optimizer.rows.items():
            updater.before_write = partial(self._note, name)

    def _note(self, name: str, rows: Tensor) -> None:
        self._tell(name, rows)
        if self._log is not None:
            self._log.note(name, rows)

    def _tell(self, name: str, rows: Tensor) -> None:
        """Whoever was told before this was there."""
        told = self._told[name]
        if told is not None:
            told(rows)

    def without_rows(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's state without the rows."""
        held = {tensor.data_ptr() for tensors in self._rows.values() for tensor in tensors}
        return {name: tensor for name, tensor in state.items() if tensor.data_ptr() not in held or not tensor.numel()}

    def mark(self, evaluation: int) -> None:
        """The rows as they are now are the best so far."""
        self._open(f"rows-{evaluation:06d}", 0)

    def _open(self, name: str, length: int) -> None:
        if self._log is not None:
            self._log.close()  # the last checkpoint may need its file
        self._log = RowJournal(self._folder / f"{name}.journal", self._rows, length)

    def load(self) -> None:
        """Make rows what they were when they were marked."""
        log, self._log = self._log, None
        if log is not None:
            log.roll_back(self._tell)

    def told(self) -> list[Any] | None:
        """Plain data for a checkpoint of the rows as they are now."""
        return None if self._log is None else [self._log.path.stem, self._log.length]

    def resume(self, told: list[Any] | None) -> None:
        """Go on with the log of a checkpoint that told this; its rows are there again."""
        if told is not None:
            self._open(*told)

    def tidy(self) -> None:
        """A checkpoint is written: logs of earlier evaluations are not needed any longer."""
        for path in self._folder.glob("rows-*.journal"):
            if self._log is None or path != self._log.path:
                path.unlink()

"""What a choice has measured so far, on disk: a killed one goes on from it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rectab.atomic_file import write_atomic
from rectab.plain import differences, parse_json, read_plain

__all__ = ["RECORD_FILE", "Measured", "Record"]

RECORD_FILE = "choice.json"
_FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """One training, or one encoding of one.

    Attributes:
        candidate: its key.
        part: of the training rows: ``sample`` or ``all``.
        seed: of the run.
        auc: on validation.
        seconds: it took, training of the full table included where it was trained for this one.
        serving_bytes: of the table, counted.
        training_bytes: most that the table took while it trained.
        expected: validation AUC predicted before encoding; None of any other.
        full_auc: validation AUC of the full table that it is encoded of; None of any other.
    """

    candidate: str
    part: str
    seed: int
    auc: float
    seconds: float
    serving_bytes: int
    training_bytes: int
    expected: float | None = None
    full_auc: float | None = None


@dataclass
class Record:
    """The file of a choice.

    Attributes:
        path: of the file.
        asked: the question, as plain data; a record of another question is refused.
        measured: in order.
        failed: key of a candidate -> why it could not be trained.
        lines: what was decided, for people.
        spent: seconds, those of processes that were killed included as far as they were noted.
    """

    path: Path
    asked: dict[str, Any]
    measured: list[Measured] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    spent: float = 0.0
    _begin: float = field(default_factory=time.perf_counter, repr=False)

    @classmethod
    def open(cls, folder: Path, asked: dict[str, Any]) -> Record:
        """The record in ``folder``, or a new one. Raises ValueError if it is damaged or of another question."""
        path = folder / RECORD_FILE
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return cls(path, asked)
        try:
            kept = parse_json(path.read_text(encoding="utf-8"))
            measured = [read_plain(Measured, one) for one in kept["measured"]]
            record = cls(path, dict(kept["asked"]), measured, dict(kept["failed"]), [], float(kept["spent"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete {folder} to start over") from error
        if told := differences(record.asked, asked):
            raise ValueError(f"{path}: holds another choice ({told}); give another --out, or delete the folder")
        return record

    @property
    def seconds(self) -> float:
        """Spent so far, all processes together."""
        return self.spent + time.perf_counter() - self._begin

    def find(self, candidate: str, part: str, seed: int) -> Measured | None:
        return next(
            (m for m in self.measured if (m.candidate, m.part, m.seed) == (candidate, part, seed)),
            None,
        )

    def add(self, measured: Measured) -> Measured:
        self.measured.append(measured)
        self.save()
        return measured

    def fail(self, candidate: str, reason: str) -> None:
        self.failed[candidate] = reason
        self.save()

    def save(self, **further: Any) -> None:
        """Write; ``further`` is what the answer adds."""
        told = {
            "format": _FORMAT,
            "asked": self.asked,
            "spent": round(self.seconds, 3),
            "measured": [asdict(one) for one in self.measured],
            "failed": self.failed,
            "lines": self.lines,
            **further,
        }
        write_atomic(self.path, json.dumps(told, indent=1, allow_nan=False) + "\n")

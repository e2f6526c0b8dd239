"""What a training run gives, as plain data."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rectab import __version__
from rectab.atomic_file import write_atomic
from rectab.plain import read_plain
from rectab.training.advice import advice
from rectab.training.stage_state import StageRecord

__all__ = ["RunResult", "versions", "without_nan"]


@dataclass(frozen=True)
class RunResult:
    """Metrics, bytes and times of one run.

    Attributes:
        dataset: name of the data set.
        fingerprint: of its contents.
        method: of the table.
        table: the plan of the table (config, bytes by kind, ratio), as ``Plan.to_json`` gives it.
        model: the model's config.
        train: the training settings.
        valid: metrics on the part of validation that selects models.
        test: metrics on the test split, read once, of the best weights on validation; None if not read.
        slices: AUC on test by how often the id of the schema's ``slice_by`` occurs in training.
        budget_bytes: what was asked for; None if nothing was.
        serving_bytes: of the table as deployed, counted.
        training_bytes: most that the table, its gradients, its optimizer and the copy of its best weights took in any
            stage, counted.
        dense_bytes: of the model outside the table.
        map_bytes: of the map from raw values to ids; None in results of before it was counted.
        train_seconds: on training steps and on searches for a shape, all stages.
        evaluation_seconds: on the evaluations that select models.
        test_seconds: on the final evaluations.
        wall_seconds: of the whole run in this process; after an interruption, of what came after it.
        samples: rows trained on.
        samples_per_second: samples over train_seconds.
        peak_memory_bytes: most memory the process held while the run lasted, measured.
        threads: of torch.
        precision: of the dense part in training.
        gradient: layout of the table's gradients.
        kernel: implementation of the row kernels.
        slice_by: the categorical feature whose ids the slices go by; None if there is none.
        device: what held the model's parameters: ``cpu``, or the name of a GPU.
        versions: of python, rectab, torch, numpy.
        stages: one record for each stage.
        history: one record for each evaluation.
        learned: what the table's method learned (``EmbeddingTable.learned``), as plain data. Runs of before there were
            findings hold a dict here, which is not drawn.
        encoded: of a table that was encoded after training, as plain data; None of any other. ``trained_as`` (the
            method that was trained), ``embedding_dim`` (the width that validation chose), ``full_valid`` (metrics of
            the full table), ``expected`` (those predicted before the table was encoded), ``widths`` (of every width
            that was trained: what it makes of the budget, its full table's metrics, the seconds of its training),
            ``seconds`` (of encoding, by part) and ``blocks`` (vocabulary, first id, ids, encoding, mean squared change
            of the output).
        attention: attention weights of some validation rows, as :meth:`rectab.training.explain.Explanation.to_json`
            gives them.
    """

    dataset: str
    fingerprint: str
    method: str
    table: dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    valid: dict[str, float]
    test: dict[str, float] | None
    slices: dict[str, dict[str, Any]]
    budget_bytes: int | None
    serving_bytes: int
    training_bytes: int
    dense_bytes: int
    train_seconds: float
    evaluation_seconds: float
    test_seconds: float
    wall_seconds: float
    samples: int
    samples_per_second: float
    peak_memory_bytes: int
    threads: int
    precision: str
    gradient: str
    kernel: str
    versions: dict[str, str]
    device: str = "cpu"
    slice_by: str | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    learned: list[Any] | dict[str, Any] = field(default_factory=list)
    attention: list[dict[str, Any]] = field(default_factory=list)
    encoded: dict[str, Any] | None = None
    map_bytes: int | None = None

    @property
    def bytes_within_budget(self) -> int:
        """What the budget was for: the table, and the map where it was put under the budget (``table.count_ids``)."""
        return self.serving_bytes + ((self.map_bytes or 0) if self.table.get("count_ids") else 0)

    def advice(self) -> list[str]:
        """What the course of the training says about its settings, see :func:`rectab.training.advice.advice`."""
        return advice(self.stages, self.train)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not a number (the AUC of a slice with one class) becomes None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Any) -> RunResult:
        """Read :meth:`to_json` back: a metric that is None there is not a number. Raises ValueError for other data."""
        if not isinstance(data, Mapping):
            raise ValueError("it is not an object")
        measured = {name: data[name] for name in ("valid", "test", "slices") if name in data}
        kept = read_plain(_Measured, measured)
        result = read_plain(cls, {**data, "valid": {}, "test": None, "slices": {}}, extra=True)
        for stage in result.stages:
            read_plain(StageRecord, stage, "stages")
        test = None if kept.test is None else _numbers(kept.test)
        return replace(result, valid=_numbers(kept.valid), test=test, slices=kept.slices)

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole."""
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False))


def versions() -> dict[str, str]:
    """Of python, rectab, torch and numpy."""
    return {
        "python": platform.python_version(),
        "rectab": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


@dataclass(frozen=True)
class _Measured:
    """The metrics of a result as JSON holds them."""

    valid: dict[str, float | None]
    test: dict[str, float | None] | None
    slices: dict[str, dict[str, float | None]]


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def without_nan(value: Any) -> Any:
    """Plain data with NaN and infinity replaced by None, so that it is valid JSON."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

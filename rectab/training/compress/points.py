"""What compressing gives: sources, points and the curve of them, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rectab.training.compress.widths import Attempt
from rectab.training.result import without_nan

__all__ = ["CURVE_FILE", "Curve", "Point", "Source"]

CURVE_FILE = "curve.json"


@dataclass(frozen=True)
class Source:
    """A run that was compressed.

    Attributes:
        run: its folder.
        embedding_dim: its width.
        serving_bytes: of its table.
        map_bytes: of the map from raw values to ids.
        valid: metrics on validation, measured anew.
        test: metrics on test; None if not asked for.
        train_seconds: of its training.
        seconds: ``sensitivity``, ``options`` (the option table), ``full validation`` and ``prediction``.
        further: metrics on validation of the full model, trained for as many further epochs as fine-tuning may take;
            None where nothing is fine-tuned.
    """

    run: str
    embedding_dim: int
    serving_bytes: int
    map_bytes: int
    valid: dict[str, float]
    test: dict[str, float] | None
    train_seconds: float
    seconds: dict[str, float]
    further: dict[str, float] | None = None


@dataclass(frozen=True)
class Point:
    """One budget.

    Attributes:
        budget: as it was asked for; it names the folder.
        budget_bytes: in bytes.
        serving_bytes: of the table that was written, counted.
        map_bytes: of the map from raw values to ids, without those that read what id 0 reads.
        share: of the full table at the first run's width.
        run, embedding_dim: of the run whose table it is.
        expected, valid: metrics on validation, as predicted and as measured.
        test: metrics on test; None if not asked for.
        lost, expected_lost: validation AUC of the first run less this one's, as measured and as predicted.
        attempts: of every width.
        finetune: what fine-tuning gave (:class:`rectab.training.compress.finetune.Tuned`); None if not asked for.
    """

    budget: str
    budget_bytes: int
    serving_bytes: int
    map_bytes: int
    share: float
    run: str
    embedding_dim: int
    expected: dict[str, float]
    valid: dict[str, float]
    test: dict[str, float] | None
    lost: float
    expected_lost: float
    attempts: tuple[Attempt, ...]
    finetune: dict[str, Any] | None = None


@dataclass
class Curve:
    """What compressing gave.

    Attributes:
        dataset, fingerprint: what it was measured on.
        count_ids: whether budgets are for table and map together.
        shape: of the encodings, ``best`` or that of a rival.
        full_bytes: of the full table at the first run's width, in bytes; shares are of it.
        sources: the runs, the first one first.
        points: one a budget, in the order they were asked for.
        loss: the loss in validation AUC that was allowed; None if none was asked for.
        measured: budgets in bytes that were measured for it, with their validation AUC.
        loss_seconds: of finding it.
    """

    dataset: str
    fingerprint: str
    full_bytes: int
    sources: list[Source] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    loss: float | None = None
    count_ids: bool = False
    shape: str = "best"
    measured: dict[int, float] = field(default_factory=dict)
    loss_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain

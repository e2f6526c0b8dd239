"""What ``rectab.compress_`` makes of a trained model at several budgets: AUC before, after and predicted, seconds."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import rectab
from rectab.metrics import auc

__all__ = ["COLUMNS", "Row", "compressed_rows", "line", "write"]

COLUMNS = (
    "| data | model | measured on | budget | bytes | test AUC before | after | lost | predicted | seconds |\n"
    "|---|---|---|---|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Row:
    """One compression of a model. ``measured_on``: what was known of the tables' use. AUC is of the test split."""

    data: str
    model: str
    measured_on: str
    budget: str
    bytes: int
    bytes_before: int
    auc_before: float
    auc_after: float
    loss_predicted: float | None
    seconds: float


def compressed_rows(
    names: tuple[str, str],
    model: nn.Module,
    predict: Callable[[], np.ndarray],
    labels: np.ndarray,
    known: Mapping[str, Mapping[str, Any]],
    budgets: Sequence[str],
) -> list[Row]:
    """The model compressed to every budget and undone, in turns; printed as it goes.

    Args:
        names: of the data and the model.
        model: a trained one.
        predict: gives its scores of the test split.
        labels: of the test split.
        known: by name, what ``compress_`` is told: ``counts`` and ``batches``.
        budgets: shares of the tables.
    """
    before = auc(labels, predict())
    rows = []
    for measured_on, options in known.items():
        for budget in budgets:
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "compress_: without batches")
                result = rectab.compress_(model, budget, verbose=False, **options)
            seconds = time.process_time() - start
            after = auc(labels, predict())
            sizes = (result.bytes, result.bytes_before)
            rows.append(Row(*names, measured_on, budget, *sizes, before, after, result.loss_predicted, seconds))
            print(line(rows[-1]), flush=True)
            result.undo()
    return rows


def line(row: Row) -> str:
    """The row of a Markdown table under :data:`COLUMNS`."""
    predicted = "" if row.loss_predicted is None else f"{row.loss_predicted:.4f}"
    return (
        f"| {row.data} | {row.model} | {row.measured_on} | {row.budget} | {row.bytes:,} | {row.auc_before:.4f} | "
        f"{row.auc_after:.4f} | {row.auc_before - row.auc_after:.4f} | {predicted} | {row.seconds:.1f} |"
    )


def write(rows: Sequence[Row], path: Path | None) -> None:
    """As JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")

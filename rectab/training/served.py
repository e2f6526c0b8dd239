"""A finished run that scores raw rows: the same reading of rows as ``prepare``, then the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from rectab.data.asked_rows import AskedRows
from rectab.data.dataset import PreparedDataset
from rectab.data.serving import RawInputs, ServedRows
from rectab.metrics import FrequencySlices
from rectab.models import CTRModel
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.config import TrainConfig
from rectab.training.device import resolve_device
from rectab.training.evaluation import metrics_of, predict
from rectab.training.finished import RESULT_FILE, check_data, load_result
from rectab.training.inputs_file import inputs_of, load_inputs
from rectab.training.result import without_nan

__all__ = ["Evaluation", "Scores", "ServedModel", "load"]


@dataclass(frozen=True)
class Scores:
    """Scores of rows.

    Attributes:
        frame: ``file`` and ``row`` (a line in text, else a position from 1) where the row stands, and ``probability``
            (float64) of a click, or the ``rating``; in the rows' order.
        dropped: bad rows that were left out.
        problems: what was wrong with the first of them.
    """

    frame: pl.DataFrame
    dropped: int
    problems: list[str]


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on rows whose labels are known.

    Attributes:
        metrics: as ``rectab train`` prints them.
        slices: AUC by how often the id of ``slice_by`` occurs in training; empty where there is none.
        slice_by: the categorical feature; None if there is none.
        rows: how many were measured.
        positive_rate: mean label.
        dropped: bad rows that were left out.
        problems: what was wrong with the first of them.
    """

    metrics: dict[str, float]
    slices: dict[str, dict[str, Any]]
    slice_by: str | None
    rows: int
    positive_rate: float
    dropped: int
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data, metrics at the top; what is not a number becomes None."""
        plain: dict[str, Any] = without_nan(
            {
                **self.metrics,
                "rows": self.rows,
                "positive_rate": self.positive_rate,
                "slice_by": self.slice_by,
                "slices": self.slices,
                "dropped": {"rows": self.dropped, "first": self.problems},
            }
        )
        return plain


@dataclass(frozen=True)
class ServedModel:
    """A trained model with what makes its inputs; see :func:`load`.

    It changes nothing while it scores, so several threads may use it at once.

    Attributes:
        model: in evaluation mode.
        inputs: makes inputs of raw rows.
        config: how it was trained: the objective, and rows per batch of evaluations.
        slices: ids by how often they occur in training.
    """

    model: CTRModel
    inputs: RawInputs
    config: TrainConfig
    slices: FrequencySlices | None

    def predict(
        self,
        rows: pl.DataFrame | Path,
        *,
        events: pl.DataFrame | Path | None = None,
        raw: Path | str | None = None,
    ) -> np.ndarray:
        """Probabilities (or ratings) float64 [n] of rows that are laid out as the recipe's files of rows.

        Args:
            rows: a frame or a file, n rows.
            events: what their histories are read from, if not the log (or the events' file) that is in ``raw``.
            raw: folder of side tables, earlier histories and the log; None: the one the data set was prepared from.

        Raises:
            DataError: naming file, column and row.
        """
        asked = AskedRows(None if raw is None else Path(raw), rows, events)
        return self.score(asked).frame.to_series(-1).to_numpy()

    def score(self, asked: AskedRows) -> Scores:
        """Score rows. Raises DataError, naming file, column and row."""
        served = self.inputs.read(asked)
        outputs = self.outputs(served).astype(np.float64)
        if self.config.objective == "mse":
            column = pl.Series("rating", outputs)
        else:
            column = pl.Series("probability", 1.0 / (1.0 + np.exp(-outputs)))
        return Scores(served.places.with_columns(column), served.dropped, served.problems)

    def evaluate(self, asked: AskedRows) -> Evaluation:
        """Measure on rows with labels.

        Raises:
            DataError: naming file, column and row.
            TrainingError: a prediction is not finite.
        """
        served = self.inputs.read(asked)
        split, outputs = served.split, self.outputs(served)
        by, slices = self.model.schema.slice_by, {}
        if by is not None and self.slices is not None and self.config.objective == "logloss":
            slices = self.slices.metrics(split.labels, outputs, split.column(by))
        return Evaluation(
            metrics=metrics_of(outputs, split, self.config.objective),
            slices=slices,
            slice_by=by if slices else None,
            rows=len(split),
            positive_rate=float(split.labels.mean(dtype=np.float64)),
            dropped=served.dropped,
            problems=served.problems,
        )

    def outputs(self, served: ServedRows) -> np.ndarray:
        """Logits (or ratings) float32 [n]."""
        return predict(self.model, served.split, self.config.evaluation_batch_size)


def load(run: Path | str, data: PreparedDataset | None = None, device: torch.device | str = "cpu") -> ServedModel:
    """Load a finished run to score raw rows with.

    Args:
        run: folder of ``rectab train --out``, or one that ``rectab compress`` wrote.
        data: the data set that it was trained on, for a run of an earlier rectab, whose folder does not hold what makes
            its inputs.
        device: where it scores, see :func:`rectab.training.device.resolve_device`.

    Raises:
        FileNotFoundError: the folder is no finished run, or lacks a file.
        ValueError: a file is damaged, or ``data`` is not what the run was trained on.
    """
    folder = Path(run)
    result = load_result(folder)
    if result is None:
        raise FileNotFoundError(f"{folder}: no {RESULT_FILE}, so this is no finished run of rectab train --out")
    model = load_model(folder / MODEL_FILE, device=resolve_device(device))
    if data is None:
        inputs = load_inputs(folder, model.schema)
    else:
        check_data(folder, result, data)
        inputs = inputs_of(data, model.schema)
    return ServedModel(model, inputs.raw, TrainConfig.from_json(result.train), inputs.slices)

"""What is measured of a trained model beside its validation metrics: the test split, and attention weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rectab.data.dataset import PreparedDataset
from rectab.data.values import RawValues
from rectab.metrics import FrequencySlices
from rectab.models import CTRModel
from rectab.training.config import TrainConfig
from rectab.training.evaluation import metrics_of, predict
from rectab.training.explain import explain_row, has_attention, rows_to_explain
from rectab.training.row_scores import SCORES_FILE, save_scores
from rectab.training.topk.evaluation import evaluate_topk
from rectab.training.topk.interactions import Interactions

__all__ = ["attention_weights", "metrics_on_test", "scores_on_test"]

EXPLAINED_EVENTS = 30


def metrics_on_test(
    model: CTRModel, dataset: PreparedDataset, config: TrainConfig, folder: Path | None = None
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Metrics on the test split and by id frequency; ``folder`` gets the scores of its rows.

    Raises:
        TrainingError: a prediction is not finite.
    """
    test, schema = dataset.test, dataset.schema
    if config.objective == "topk":
        interactions = Interactions.of(dataset)
        known = interactions.keys(dataset.train, dataset.valid)
        return evaluate_topk(model, interactions, test, known, config.topk), {}
    predictions = scores_on_test(model, dataset, config)
    metrics = metrics_of(predictions, test, config.objective)
    if folder is not None and config.objective == "logloss":
        save_scores(folder / SCORES_FILE, test.labels, predictions)
    if schema.slice_by is None or config.objective != "logloss":
        return metrics, {}
    slices = FrequencySlices.of_training(schema, dataset.train.column(schema.slice_by))
    return metrics, slices.metrics(test.labels, predictions, test.column(schema.slice_by))


def scores_on_test(model: CTRModel, dataset: PreparedDataset, config: TrainConfig) -> np.ndarray:
    """Logits float32 [n] of the test rows. The one place that reads them."""
    return predict(model, dataset.test, config.evaluation_batch_size)


def attention_weights(model: CTRModel, dataset: PreparedDataset, count: int) -> list[dict[str, Any]]:
    """The attention of some validation rows, over their most recent events; empty without attention."""
    if not count or not has_attention(model):
        return []
    values = RawValues(dataset)
    explanations = [explain_row(model, dataset, "valid", row, values) for row in rows_to_explain(dataset.valid, count)]
    return [explanation.to_json(max_events=EXPLAINED_EVENTS) for explanation in explanations]

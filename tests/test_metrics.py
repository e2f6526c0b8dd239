"""Metrics against brute force, torchmetrics and hand-computed cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc
from training_helpers import tiny_schema

from rectab import metrics
from rectab.training.config import TrainConfig, monitor_value


def brute_force_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[labels == 1][:, None], scores[labels == 0][None]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_counts_ties_half(levels: int) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 400).astype(np.float32), rng.integers(0, levels, 400).astype(np.float32)
    assert metrics.auc(labels, scores) == pytest.approx(brute_force_auc(labels, scores), abs=1e-12)
    expected = float(binary_auroc(torch.from_numpy(scores) / levels, torch.from_numpy(labels).long()))
    assert metrics.auc(labels, scores) == pytest.approx(expected, abs=1e-6)


def test_auc_is_exact_on_a_million_rows() -> None:
    scores = np.arange(1_000_000, dtype=np.float64)
    labels = (scores >= 500_000).astype(np.float32)
    labels[[0, 999_999]] = 1, 0  # the worst positive loses to all negatives, the best negative wins against all others
    losses = (500_000 - 1) + (500_000 - 1) + 1
    assert metrics.auc(labels, scores) == pytest.approx(1 - losses / 500_000**2, abs=1e-15)


def test_auc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(metrics.auc(np.ones(3), np.arange(3)))


MEASURES = [
    metrics.auc,
    metrics.logloss,
    metrics.calibration,
    metrics.expected_calibration_error,
    metrics.rating_metrics,
    lambda labels, scores: metrics.gauc(labels, scores, np.zeros(len(labels), int)),
    lambda labels, scores: metrics.click_metrics(labels, scores, None),
]


@pytest.mark.parametrize("measure", MEASURES)
def test_what_cannot_be_measured_is_an_error(measure: Callable[[np.ndarray, np.ndarray], Any]) -> None:
    labels, scores = np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.9, 0.4])
    measure(labels, scores)
    with pytest.raises(ValueError, match="there are no rows"):
        measure(labels[:0], scores[:0])
    with pytest.raises(ValueError, match="1 of 3 predictions are not numbers"):
        measure(labels, np.array([0.2, np.nan, 0.4]))
    with pytest.raises(ValueError, match="2 of 3 labels are not numbers"):
        measure(np.array([np.nan, np.nan, 1.0]), scores)
    with pytest.raises(ValueError, match="equally long"):
        measure(labels, scores[:2])


@pytest.mark.parametrize("levels", [1, 2, 7, 1000])
def test_no_metric_depends_on_the_order_of_the_rows(levels: int) -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 2, 999).astype(np.float32), rng.integers(0, 9, 999)
    logits = rng.integers(0, levels, 999) / np.float32(levels)
    expected = metrics.click_metrics(labels, logits, groups)
    for _ in range(5):
        order = rng.permutation(999)
        assert metrics.click_metrics(labels[order], logits[order], groups[order]) == pytest.approx(expected, abs=1e-14)


def test_calibration_error_of_equal_predictions_is_their_gap() -> None:
    labels = np.repeat([0.0, 1.0], [60, 40])
    assert metrics.expected_calibration_error(labels, np.full(100, 0.4)) == pytest.approx(0.0, abs=1e-12)
    assert metrics.expected_calibration_error(labels, np.full(100, 0.7)) == pytest.approx(0.3)


def test_gauc_weights_mixed_groups_by_impressions() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 30, 500)
    labels, scores = rng.integers(0, 2, 500).astype(np.float32), rng.integers(0, 20, 500).astype(np.float32)
    labels[groups == 3], labels[groups == 7] = 1, 0  # one class each: dropped
    total = weight = 0.0
    for group in set(groups) - {3, 7}:
        rows = groups == group
        total += rows.sum() * brute_force_auc(labels[rows], scores[rows])
        weight += rows.sum()
    assert metrics.gauc(labels, scores, groups) == pytest.approx(total / weight, abs=1e-12)


def test_gauc_with_one_group_is_auc_and_ignores_a_groups_own_scale() -> None:
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 200).astype(np.float32), rng.random(200)
    assert metrics.gauc(labels, scores, np.zeros(200, int)) == metrics.auc(labels, scores)
    groups = rng.integers(0, 5, 200)
    moved = np.exp(3 * scores) + 100.0 * groups
    assert metrics.gauc(labels, moved, groups) == pytest.approx(metrics.gauc(labels, scores, groups), abs=1e-12)
    assert metrics.auc(labels, moved) != pytest.approx(metrics.auc(labels, scores), abs=1e-3)


def test_gauc_without_a_mixed_group_is_not_a_number() -> None:
    assert math.isnan(metrics.gauc(np.array([1, 1, 0]), np.array([0.1, 0.2, 0.3]), np.array([1, 1, 2])))


def test_logloss_from_logits_is_stable() -> None:
    labels, logits = np.array([1.0, 0.0, 1.0]), np.array([0.3, -0.7, 2.0])
    p = 1 / (1 + np.exp(-logits))
    assert metrics.logloss(labels, logits) == pytest.approx(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))
    assert metrics.logloss(np.array([0.0]), np.array([1000.0])) == pytest.approx(1000.0)


def test_calibration() -> None:
    labels = np.array([0, 1] * 500, np.float32)
    assert metrics.calibration(labels, np.full(1000, 0.6)) == pytest.approx(1.2)
    assert metrics.expected_calibration_error(labels, np.full(1000, 0.6)) == pytest.approx(0.1)
    probabilities = np.repeat([0.25, 0.75], 500)
    expected = np.r_[np.tile([0, 0, 0, 1], 125), np.tile([1, 1, 1, 0], 125)]
    assert metrics.expected_calibration_error(expected, probabilities, bins=2) == pytest.approx(0.0)
    assert math.isnan(metrics.calibration(np.zeros(2), np.ones(2)))


def test_relative_improvement() -> None:
    assert metrics.relative_improvement(0.72, 0.70) == pytest.approx(10.0)


def test_frequency_slices_cut_training_rows_in_three() -> None:
    train = np.repeat([0, 5, 6, 7, 8], [90, 40, 30, 20, 10])  # id 0 of a fitted vocabulary is unseen, however frequent
    slices = metrics.FrequencySlices.of_training(tiny_schema(), train)
    assert slices.of(np.array([0, 5, 6, 7, 8, 9])).tolist() == [0, 1, 2, 3, 3, 0]
    labels, scores = np.array([1, 0, 1, 0], np.float32), np.array([0.9, 0.1, 0.2, 0.8])
    found = slices.metrics(labels, scores, np.array([5, 5, 7, 7]))
    assert found["head"] == {"rows": 2, "auc": 1.0}
    assert found["tail"] == {"rows": 2, "auc": 0.0}
    assert found["unseen"]["rows"] == 0
    assert math.isnan(found["unseen"]["auc"])


def test_rating_metrics() -> None:
    found = metrics.rating_metrics(np.array([1.0, 5.0]), np.array([2.0, 3.0]))
    assert found == {"mse": 2.5, "rmse": pytest.approx(2.5**0.5), "mae": 1.5}


def test_monitors_are_higher_for_better() -> None:
    values = {"auc": 0.8, "gauc": 0.7, "logloss": 0.4}
    assert monitor_value("auc", values) == 0.8
    assert monitor_value("logloss", values) == -0.4
    assert monitor_value("auc+gauc", values) == pytest.approx(1.5)
    assert monitor_value("auc - logloss", values) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="give no gauc"):
        monitor_value("gauc", {"auc": 0.5})
    with pytest.raises(ValueError, match="single class"):
        monitor_value("auc", {"auc": float("nan")})
    assert monitor_value("-logloss+auc", values) == pytest.approx(0.4)
    for monitor in ("accuracy", "", "auc gauc", "auc+", "auc--logloss", "+", "2*auc"):
        with pytest.raises(ValueError, match="monitor must be a sum"):
            TrainConfig(monitor=monitor)


@pytest.mark.parametrize(
    ("monitor", "right"),
    [("auc-gauc", r"\+gauc"), ("auc+logloss", "-logloss"), ("-auc", r"\+auc"), ("+logloss", "-logloss")],
)
def test_monitors_whose_signs_would_select_worse_models_are_refused(monitor: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"so write {right}"):
        TrainConfig(monitor=monitor)


def test_monitors_that_the_objective_does_not_measure_are_refused() -> None:
    with pytest.raises(ValueError, match="objective 'mse' measures no gauc"):
        TrainConfig(objective="mse", monitor="gauc")
    with pytest.raises(ValueError, match="objective 'logloss' measures no rmse"):
        TrainConfig(monitor="auc-rmse")

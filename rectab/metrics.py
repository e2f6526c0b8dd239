"""How good predictions are: AUC, GAUC, logloss, calibration, and AUC by id frequency. Exact, on numpy arrays.

Every AUC here is computed by ranks with ties counted half, without a loop over groups. No metric depends on the order
of the rows. Every function raises ValueError for no rows, for arrays of different lengths, and for labels or
predictions that are not numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rectab.schema import Schema

__all__ = [
    "FrequencySlices",
    "auc",
    "calibration",
    "click_metrics",
    "expected_calibration_error",
    "gauc",
    "logloss",
    "rating_metrics",
    "relative_improvement",
]

SLICES = ("unseen", "head", "torso", "tail")


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half; NaN if there is only one class.

    Args:
        labels: [n], 0 or 1.
        scores: [n], any monotone score.
    """
    _check(labels, scores)
    area, _ = _group_aucs(labels, scores, None)
    return float(area[0])


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """AUC within every group, averaged by impressions (Zhu et al., KDD 2017; DIN, section 6.3).

    Groups of a single class are dropped from numerator and denominator. NaN if no group is left.

    Args:
        labels: [n], 0 or 1.
        scores: [n].
        groups: int [n], the group (usually the user) of every row.
    """
    _check(labels, scores, groups)
    areas, sizes = _group_aucs(labels, scores, groups)
    mixed = ~np.isnan(areas)
    return float(np.average(areas[mixed], weights=sizes[mixed])) if mixed.any() else float("nan")


def _check(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray | None = None) -> None:
    """Raises ValueError where no metric can be told."""
    shapes = [array.shape for array in (labels, predictions, groups) if array is not None]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"labels, predictions and groups must be equally long, got {', '.join(map(str, shapes))}")
    if not len(labels):
        raise ValueError("there are no rows to measure")
    for what, array in (("labels", labels), ("predictions", predictions)):
        if missing := int(np.isnan(array).sum()):
            raise ValueError(f"{missing} of {len(array)} {what} are not numbers (NaN)")


def _group_aucs(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(AUC, rows) of every group, by mid-ranks (Mann and Whitney); NaN where a group has one class only."""
    if groups is None:
        order = np.argsort(scores, kind="stable")
        sorted_groups = np.zeros(len(order), np.int8)
    else:
        order = np.lexsort((scores, groups))
        sorted_groups = groups[order]
    sorted_scores = scores[order]
    positive = labels[order] > 0.5
    new_group = np.empty(len(order), bool)
    new_group[0], new_group[1:] = True, sorted_groups[1:] != sorted_groups[:-1]
    new_tie = new_group.copy()
    new_tie[1:] |= sorted_scores[1:] != sorted_scores[:-1]
    tie_starts = np.flatnonzero(new_tie)
    tie_sizes = np.diff(np.append(tie_starts, len(order)))
    group_starts = np.flatnonzero(new_group)
    sizes = np.diff(np.append(group_starts, len(order)))
    # The mean rank of a run of ties, counted from 0 at the start of all rows; the group's start is taken off below.
    ranks = np.repeat(tie_starts + (tie_sizes - 1) / 2, tie_sizes)
    rank_sums = np.add.reduceat(np.where(positive, ranks, 0.0), group_starts)
    positives = np.add.reduceat(positive.astype(np.int64), group_starts)
    negatives = sizes - positives
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = rank_sums - positives * group_starts - positives * (positives - 1) / 2
        return np.where((positives > 0) & (negatives > 0), wins / (positives * negatives), np.nan), sizes


def logloss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy in nats, from logits, so that it is finite for any finite logit."""
    _check(labels, logits)
    wide = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, wide) - labels * wide))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean prediction over mean label: 1 is calibrated; NaN if there is no positive."""
    _check(labels, probabilities)
    positive_rate = float(np.mean(labels, dtype=np.float64))
    return float(np.mean(probabilities, dtype=np.float64)) / positive_rate if positive_rate > 0 else float("nan")


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 20) -> float:
    """Mean absolute gap between mean prediction and mean label over ``bins`` bins of equally many rows.

    Rows of equal prediction may fall into two bins; each then counts with the mean label of all of them, so that it
    does not matter which row is where.
    """
    _check(labels, probabilities)
    values, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    rates = np.bincount(place, labels, minlength=len(values)) / counts
    gaps = np.repeat(values - rates, counts)
    parts = [part for part in np.array_split(gaps, bins) if len(part)]
    means = [abs(float(np.mean(part, dtype=np.float64))) for part in parts]
    return float(np.average(means, weights=[len(part) for part in parts]))


def relative_improvement(value: float, base: float) -> float:
    """RelaImpr of DIN, section 6.3, in percent: the gain over ``base`` of what AUC lies above random (0.5)."""
    return ((value - 0.5) / (base - 0.5) - 1.0) * 100.0 if base != 0.5 else float("nan")


@dataclass(frozen=True)
class FrequencySlices:
    """Rows by how often the id of one feature occurs in training.

    Ids are sorted by training rows. ``head`` are the most frequent ones that together make a third of the training
    rows, ``torso`` those that make the next third, ``tail`` all others; ``unseen`` are id 0 of a fitted vocabulary
    (unseen or rare) and ids that no training row has.

    Attributes:
        starts: int64 [R], ascending: ids from one to the next are of one slice; those before the first are unseen.
        slices: int8 [R], that slice's position in ``SLICES``.
    """

    starts: np.ndarray
    slices: np.ndarray

    @classmethod
    def of_training(cls, schema: Schema, train_ids: np.ndarray) -> FrequencySlices:
        """From the column of the feature ``schema.slice_by`` in the training split, int [n]."""
        if schema.slice_by is None:
            raise ValueError("the schema has no slice_by feature")
        feature = schema.categorical[schema.categorical_index(schema.slice_by)]
        hashed = schema.vocabularies[schema.vocabulary_index(feature.vocabulary)].hashed
        ids, counts = np.unique(train_ids, return_counts=True)
        if not hashed:
            ids, counts = ids[ids != 0], counts[ids != 0]
        ids = ids.astype(np.int64)
        order = np.argsort(-counts, kind="stable")
        before = np.cumsum(counts[order]) - counts[order]
        slices = np.empty(len(ids), np.int8)
        slices[order] = 1 + np.minimum(before * 3 // max(int(counts.sum()), 1), 2)
        after = ids[ids < np.iinfo(np.int64).max] + 1
        starts = np.union1d(ids, after)  # what follows an id is unseen, unless it is an id itself
        of_starts = np.zeros(len(starts), np.int8)
        of_starts[np.searchsorted(starts, ids)] = slices
        changes = np.append(True, of_starts[1:] != of_starts[:-1])[: len(starts)]
        return cls(starts[changes], of_starts[changes])

    def of(self, ids: np.ndarray) -> np.ndarray:
        """int8 [n]: the position of every id's slice in ``SLICES``."""
        return np.append(np.int8(0), self.slices)[np.searchsorted(self.starts, ids, side="right")]

    def metrics(self, labels: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> dict[str, dict[str, Any]]:
        """By slice: ``rows`` and ``auc`` (NaN where the slice has one class or none)."""
        slices = self.of(ids)
        members = {name: slices == index for index, name in enumerate(SLICES)}
        return {
            name: {"rows": int(rows.sum()), "auc": auc(labels[rows], scores[rows]) if rows.any() else float("nan")}
            for name, rows in members.items()
        }


def click_metrics(labels: np.ndarray, logits: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
    """``auc``, ``gauc`` (with groups), ``logloss``, ``calibration`` and ``expected_calibration_error``."""
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    result = {"auc": auc(labels, logits)}
    if groups is not None:
        result["gauc"] = gauc(labels, logits, groups)
    result["logloss"] = logloss(labels, logits)
    result["calibration"] = calibration(labels, probabilities)
    result["expected_calibration_error"] = expected_calibration_error(labels, probabilities)
    return result


def rating_metrics(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """``mse``, ``rmse`` and ``mae`` of predicted ratings."""
    _check(labels, predictions)
    error = predictions.astype(np.float64) - labels
    mse = float(np.mean(np.square(error)))
    return {"mse": mse, "rmse": mse**0.5, "mae": float(np.mean(np.abs(error)))}

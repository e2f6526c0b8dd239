"""The AUC that an encoding will cost, before it is made.

In closed form the outputs of positives and negatives are two normals, and an encoding adds noise to them. Errors of
blocks are first-order changes of the output, as if those of the fields of a row had nothing to do with one another: the
noise comes out too small, by a factor that differs with the data and grows with the loss. :class:`Inflation` learns it
from a few encodings that are tried on rows without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["Inflation", "Separation", "expected_auc", "expected_loss"]

_NORMAL = NormalDist()
_LEAST_LOSS = 1e-5  # of AUC, that a probe has to show: less is rounding
_MOST = 100.0  # factor between noise and error, and its inverse the least


@dataclass(frozen=True)
class Separation:
    """How well a model's outputs tell positives from negatives.

    Attributes:
        auc: on validation.
        spread: variance of the outputs within the positives plus that within the negatives.
    """

    auc: float
    spread: float

    @classmethod
    def of(cls, auc: float, labels: np.ndarray, outputs: np.ndarray) -> Separation:
        """Of outputs [n] for labels [n]."""
        positive = labels > 0.5
        wide = outputs.astype(np.float64)
        return cls(auc, float(wide[positive].var() + wide[~positive].var()))

    def after(self, change: float) -> float:
        """AUC once the outputs have changed by noise of mean square ``change``."""
        if not 0 < self.auc < 1 or self.spread <= 0:
            return self.auc
        return _NORMAL.cdf(_NORMAL.inv_cdf(self.auc) * (self.spread / (self.spread + 2 * change)) ** 0.5)

    def change(self, auc: float) -> float:
        """The noise after which AUC is ``auc``, the inverse of :meth:`after`; 0 if no noise does that."""
        if not 0.5 < auc < self.auc < 1:
            return 0.0
        ratio = _NORMAL.inv_cdf(self.auc) / _NORMAL.inv_cdf(auc)
        return self.spread / 2 * (ratio * ratio - 1)


def expected_auc(probabilities: np.ndarray, outputs: np.ndarray) -> float:
    """AUC of outputs [n] over labels that are 1 with ``probabilities`` [n]: no label is needed.

    With a model's own probabilities, its AUC less that of an encoding's outputs is what the encoding costs if the model
    is right about every row.
    """
    order = np.argsort(outputs, kind="stable")
    positive = probabilities[order].astype(np.float64)
    negative = 1 - positive
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))


def expected_loss(before: np.ndarray, after: np.ndarray) -> float:
    """AUC that changing logits [n] from ``before`` to ``after`` costs, if those before are right about every row."""
    probabilities = 1 / (1 + np.exp(-before.astype(np.float64)))
    return expected_auc(probabilities, before) - expected_auc(probabilities, after)


class Inflation:
    """How much more the outputs change than the errors of blocks say.

    Args:
        separation: of the full model's outputs.
        errors: sums of the errors of encodings that were tried.
        losses: the AUC that each costs by :func:`expected_loss`.
    """

    def __init__(self, separation: Separation, errors: Sequence[float], losses: Sequence[float]) -> None:
        self.separation = separation
        pairs = sorted(
            (error, separation.change(separation.auc - loss) / error)
            for error, loss in zip(errors, losses, strict=True)
            if loss > _LEAST_LOSS and error > 0
        )
        known = [(error, factor) for error, factor in pairs if factor > 0]
        self._errors = np.log([error for error, _ in known])
        self._factors = np.clip(np.log([factor for _, factor in known]), -np.log(_MOST), np.log(_MOST))

    def change(self, error: float) -> float:
        """Mean squared change of the output that the sum of errors ``error`` stands for.

        The factor is read from the line between the nearest probes, in logarithms; 1 without any.
        """
        if not len(self._errors) or error <= 0:
            return error
        return error * float(np.exp(np.interp(np.log(error), self._errors, self._factors)))

    def auc(self, error: float) -> float:
        """AUC of an encoding whose errors add up to ``error``."""
        return self.separation.after(self.change(error))

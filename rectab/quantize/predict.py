"""The AUC that an encoding will cost, in closed form: the outputs of positives and negatives as two normals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["Separation"]

_NORMAL = NormalDist()


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

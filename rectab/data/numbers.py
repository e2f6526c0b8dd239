"""Numbers as inputs: transformed to floats, or cut into bins that become ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rectab.data.recipe_parts import FeatureRecipe

__all__ = ["BinRule", "DenseRule"]


@dataclass(frozen=True)
class DenseRule:
    """How a dense feature is made, with what was learned from the training rows.

    Attributes:
        log: take log1p(max(x, 0)) first.
        mean, std: subtracted and divided by (0 and 1 where the recipe does not standardise).
    """

    log: bool
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, feature: FeatureRecipe, training: np.ndarray) -> DenseRule:
        """``training``: float64 [n] raw numbers of the training rows, NaN where missing."""
        rule = cls("log" in feature.transform)
        if "standardize" not in feature.transform:
            return rule
        present = rule._logged(training[~np.isnan(training)])
        if not len(present):
            return rule
        return cls(rule.log, float(present.mean()), float(present.std()) or 1.0)

    def apply(self, numbers: np.ndarray) -> np.ndarray:
        """float32 [n], infinite beyond float32; a missing number becomes 0 (the mean, if standardised)."""
        made = np.where(np.isnan(numbers), 0.0, (self._logged(numbers) - self.mean) / self.std)
        with np.errstate(over="ignore"):
            return made.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The rule as plain data, for ``schema.json``."""
        return {"log": self.log, "mean": self.mean, "std": self.std}

    def _logged(self, numbers: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(numbers, 0)) if self.log else numbers


@dataclass(frozen=True)
class BinRule:
    """How a number becomes a bin.

    Attributes:
        kind: ``edges`` (quantiles and given edges alike) or ``log_squared``.
        edges: bin k holds edges[k-1] <= x < edges[k].
    """

    kind: str
    edges: tuple[float, ...] = ()

    @classmethod
    def fit(cls, feature: FeatureRecipe, training: np.ndarray) -> BinRule:
        """``training``: float64 [n] raw numbers of the training rows, NaN where missing."""
        if feature.bins == "log_squared":
            return cls("log_squared")
        if feature.bins == "bucketize":
            return cls("edges", feature.edges)
        present = training[~np.isnan(training)]
        if not len(present):
            return cls("edges")
        edges = np.unique(np.quantile(present, np.linspace(0, 1, feature.num_bins + 1)[1:-1]))
        return cls("edges", tuple(float(edge) for edge in edges))

    def apply(self, numbers: np.ndarray) -> pl.Series:
        """int64 [n] bins; null where the number is missing."""
        missing = np.isnan(numbers)
        numbers = np.clip(np.where(missing, 0.0, numbers), -(2.0**62), None)  # what int64 holds
        if self.kind == "log_squared":
            squared = np.floor(np.log(np.maximum(numbers, 2.0)) ** 2)
            bins = np.where(numbers > 2, squared, np.trunc(numbers)).astype(np.int64)
        else:
            bins = np.searchsorted(np.array(self.edges), numbers, side="right").astype(np.int64)
        return pl.Series(bins).set(pl.Series(missing), None)

    def to_json(self) -> dict[str, Any]:
        """The rule as plain data, for ``schema.json``."""
        return {"kind": self.kind, "edges": list(self.edges)}

"""Small-sample statistics: means over seeds with Student's t intervals."""

from __future__ import annotations

import math
import statistics as standard
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["DECIDING_SEEDS", "Estimate", "estimate", "holm", "t_quantile"]


DECIDING_SEEDS = 3
"""Fewest seeds to rely on: of two, the 95 % interval is 25 standard errors wide, and next to nothing stands out."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of n values.
        half_width: of the 95 % interval for the mean; None for a single value, from which no spread can be told.
        n: number of values.
    """

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0)

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the t test for a mean of zero; None for a single value."""
        if self.half_width is None:
            return None
        if self.half_width == 0:
            return 1.0 if self.mean == 0 else 0.0
        t = abs(self.mean) / self.half_width * t_quantile(0.975, self.n - 1)
        return 2 * (1 - _t_distribution(t, self.n - 1))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False for a single value."""
        return self.half_width is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % t interval (n - 1 degrees of freedom); None of no values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    return Estimate(mean, t_quantile(0.975, n - 1) * standard.stdev(values) / math.sqrt(n), n)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several tests stand together at ``level`` (Holm, Scandinavian Journal of Statistics 1979): with the
    chance of one false claim among all of them held to it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    stand = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        stand[index] = True
    return stand


@lru_cache
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, for 0.5 <= probability < 1: bisection on the exact distribution.

    Raises:
        ValueError: degrees < 1 or a probability outside the range.
    """
    if degrees < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"t_quantile needs degrees >= 1 and 0.5 <= probability < 1, got {degrees}, {probability}")
    low, high = 0.0, 1.0
    while _t_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_distribution(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0 and whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    if degrees % 2:
        term, total = math.cos(angle), 0.0
        for k in range(1, degrees, 2):
            total += term
            term *= cosine_squared * (k + 1) / (k + 2)
        inside = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, degrees, 2):
            total += term
            term *= cosine_squared * (k + 1) / (k + 2)
        inside = math.sin(angle) * total
    return 0.5 + inside / 2

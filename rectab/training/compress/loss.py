"""The fewest bytes whose measured loss is small enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rectab.training.compress.encoder import Encoder

__all__ = ["Search", "fewest_bytes", "predicted_bytes"]

_STEP = 1.5  # by which a bracket grows
_CLOSE = 1.02  # largest ratio of the fewest bytes found and the most that lose too much


@dataclass
class Search:
    """A search for the fewest bytes.

    Attributes:
        measured: budget in bytes -> validation AUC, in the order of measuring.
        found: the fewest bytes that were good enough; None if none were.
    """

    measured: dict[int, float] = field(default_factory=dict)
    found: int | None = None


def fewest_bytes(auc_of: Callable[[int], float], needed: float, low: int, high: int, start: int) -> Search:
    """Bisection over budgets by what is measured at each, as if AUC rose with bytes.

    Args:
        auc_of: measured AUC of a budget in bytes.
        needed: least AUC that is good enough.
        low, high: the smallest and the largest budget that there is.
        start: where to begin; the nearer it is to the answer, the fewer are measured.
    """
    search = Search()

    def enough(budget: int) -> bool:
        if budget not in search.measured:
            search.measured[budget] = auc_of(budget)
        good = search.measured[budget] >= needed
        if good and (search.found is None or budget < search.found):
            search.found = budget
        return good

    few, many = _bracket(enough, min(max(start, low), high), low, high)
    while many > few * _CLOSE and many - few > 1:
        middle = round((few * many) ** 0.5)
        few, many = (few, middle) if enough(middle) else (middle, many)
    return search


def _bracket(enough: Callable[[int], bool], at: int, low: int, high: int) -> tuple[int, int]:
    """(a budget that is too small, one that is enough), near each other; the same twice if there are none such."""
    if enough(at):
        while at > low:
            fewer = max(int(at / _STEP), low)
            if not enough(fewer):
                return fewer, at
            at = fewer
        return at, at
    while at < high:
        more = min(int(at * _STEP) + 1, high)
        if enough(more):
            return at, more
        at = more
    return at, at


def predicted_bytes(encoder: Encoder, needed: float, low: int, high: int) -> int:
    """The fewest bytes whose predicted AUC is ``needed``, to a few per cent; nothing is measured."""
    while high > low * _STEP**0.25 and high - low > 1:
        middle = round((low * high) ** 0.5)
        reached = encoder.expect(encoder.allocate(middle))["auc"]
        low, high = (low, middle) if reached >= needed else (middle, high)
    return high

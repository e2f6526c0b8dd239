"""One budget, any method: the tables of a method that a budget chooses from, and the one search that chooses.

A method says which tables it can be, as configs that grow with one whole number: rows, a width, a rank, bytes. It never
computes bytes. The search builds members on torch's meta device, reads their ledgers and keeps the largest that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

__all__ = ["Choice", "Family", "InfeasibleBudget", "largest_within"]

ConfigT = TypeVar("ConfigT")


class InfeasibleBudget(ValueError):
    """No configuration of a method serves these vocabularies within the budget.

    Attributes:
        method: name of the method.
        budget_bytes: what was asked for.
        smallest_bytes: the smallest budget the method can serve; None if it can serve none.
        reason: what the smallest is.
    """

    def __init__(self, method: str, budget_bytes: int, smallest_bytes: int | None, reason: str = "") -> None:
        self.method = method
        self.budget_bytes = budget_bytes
        self.smallest_bytes = smallest_bytes
        smallest = "no budget is feasible" if smallest_bytes is None else f"the smallest feasible is {smallest_bytes}"
        self.reason = reason
        super().__init__(
            f"{method}: a budget of {budget_bytes} bytes is infeasible; {smallest}" + (f" ({reason})" if reason else "")
        )


@dataclass(frozen=True)
class Family(Generic[ConfigT]):
    """The configs a method has for some vocabularies, smallest first.

    Attributes:
        config_of: the config of a knob ``low .. high``. Serving bytes must not fall as the knob rises; only ``high``
            itself may be smaller than its neighbours (a table that keeps every vocabulary whole needs no salts).
        low, high: the smallest and the largest knob.
        own: the config without a budget; that of ``high`` if None.
        smallest: what the smallest member is, for errors (``one row a vocabulary``).
        limit: what keeps the family from growing further, if that is an option and not the vocabularies; then a budget
            that ``high`` leaves a part of unused is an error that says so.
    """

    config_of: Callable[[int], ConfigT]
    low: int
    high: int
    own: Callable[[], ConfigT] | None = None
    smallest: str = ""
    limit: str = ""

    def without_budget(self) -> ConfigT:
        """The method's own size."""
        return self.config_of(self.high) if self.own is None else self.own()


@dataclass(frozen=True)
class Choice(Generic[ConfigT]):
    """What a budget chose.

    Attributes:
        config: the largest member within it.
        next_bytes: bytes of the next larger member; None if there is none.
    """

    config: ConfigT
    next_bytes: int | None = None


def largest_within(
    family: Family[ConfigT], budget: int, bytes_of: Callable[[ConfigT], int], method: str
) -> Choice[ConfigT]:
    """The largest member of ``family`` whose bytes do not exceed ``budget``.

    Args:
        family: what there is to choose from.
        budget: bytes.
        bytes_of: serving bytes of a member.
        method: its name, for errors.

    Raises:
        InfeasibleBudget: not even the smallest member fits.
        ValueError: an option keeps the family from using the budget.
    """
    size = cache(lambda knob: bytes_of(family.config_of(knob)))
    fits, exceeds = family.low, family.high
    if size(exceeds) <= budget:
        if family.limit and size(exceeds) < 0.97 * budget:
            raise ValueError(f"{method}: {family.limit}")
        return Choice(family.config_of(exceeds))
    if size(fits) > budget:
        raise InfeasibleBudget(method, budget, min(size(fits), size(exceeds)), family.smallest)
    halved = True
    while exceeds - fits > 1 and size(fits) < budget:
        span = exceeds - fits
        # Bytes are nearly linear in most knobs, so a line between the ends is tried first; where it does not halve what
        # is left, the middle does.
        step = span // 2 if not halved else span * (budget - size(fits)) // (size(exceeds) - size(fits))
        knob = fits + min(max(step, 1), span - 1)
        fits, exceeds = (knob, exceeds) if size(knob) <= budget else (fits, knob)
        halved = 2 * (exceeds - fits) <= span
    return Choice(family.config_of(fits), size(fits + 1))

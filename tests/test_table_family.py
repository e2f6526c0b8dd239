"""The search that fits a family to a budget, against trying every member."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.tables.family import Choice, Family, InfeasibleBudget, largest_within


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 800), st.integers(0, 60))
@settings(deadline=None, max_examples=300)
def test_the_largest_member_that_fits_is_found(steps: list[int], budget: int, at_high: int) -> None:
    """Bytes rise with the knob in any steps; the last member may be smaller than its neighbour."""
    sizes = [10 + sum(steps[: index + 1]) for index in range(len(steps))]
    sizes.append(max(1, sizes[-1] + 20 - at_high))
    family = Family(lambda knob: knob, low=3, high=3 + len(steps))
    fitting = [knob for knob in range(3, 4 + len(steps)) if sizes[knob - 3] <= budget]
    if sizes[-1] > budget:
        fitting = [knob for knob in fitting if knob != 3 + len(steps)]
    if not fitting:
        with pytest.raises(InfeasibleBudget) as caught:
            largest_within(family, budget, lambda knob: sizes[knob - 3], "x")
        assert caught.value.smallest_bytes == min(sizes[0], sizes[-1])
        return
    found = largest_within(family, budget, lambda knob: sizes[knob - 3], "x").config
    assert sizes[found - 3] == sizes[fitting[-1] - 3]


def test_few_members_are_built() -> None:
    """A line through the ends finds the knob at once where bytes are linear; a curve costs two halvings at most."""
    for curve in (lambda knob: 24 + 64 * knob, lambda knob: knob**3, lambda knob: int(1000 * knob**0.3)):
        asked: list[int] = []

        def size(knob: int, curve=curve, asked=asked) -> int:  # type: ignore[no-untyped-def]
            asked.append(knob)
            return int(curve(knob))

        family = Family(lambda knob: knob, low=1, high=2**31)
        budget = curve(2**31) // 10
        found = largest_within(family, budget, size, "x").config
        assert curve(found) == budget or curve(found) < budget < curve(found + 1)
        assert len(asked) <= (6 if curve(2) == 152 else 64)


def test_an_option_that_leaves_the_budget_unused_is_an_error() -> None:
    family = Family(lambda knob: knob, 1, 10, limit="rows=10 is too few")
    assert largest_within(family, 10, lambda knob: knob, "x") == Choice(10)
    assert largest_within(family, 7, lambda knob: knob, "x") == Choice(7, 8)
    with pytest.raises(ValueError, match="x: rows=10 is too few"):
        largest_within(family, 20, lambda knob: knob, "x")


def test_a_family_of_one() -> None:
    family = Family(lambda knob: "only", 0, 0)
    assert family.without_budget() == "only"
    assert largest_within(family, 7, lambda _: 7, "x") == Choice("only")
    with pytest.raises(InfeasibleBudget, match="x: a budget of 6 bytes is infeasible; the smallest feasible is 7"):
        largest_within(family, 6, lambda _: 7, "x")

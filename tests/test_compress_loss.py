"""The search for the fewest bytes: what it finds, and that it measures few budgets."""

from __future__ import annotations

import math

import pytest

from rectab.training.compress.loss import fewest_bytes


def auc_of(budget: int) -> float:
    return 0.8 - 5 / budget


@pytest.mark.parametrize("start", [10, 200, 5000, 10**6])
@pytest.mark.parametrize("needed", [0.5, 0.79, 0.799])
def test_the_fewest_bytes_are_found_from_any_start(start: int, needed: float) -> None:
    least = math.ceil(5 / (0.8 - needed))
    search = fewest_bytes(auc_of, needed, 10, 10**6, start)
    assert search.found is not None
    assert auc_of(search.found) >= needed
    assert least <= search.found <= 1.03 * least
    assert search.measured == {budget: auc_of(budget) for budget in search.measured}
    assert len(search.measured) < 40


def test_a_start_that_is_near_measures_few() -> None:
    assert len(fewest_bytes(auc_of, 0.79, 10, 10**6, 520).measured) <= 8


def test_what_is_always_or_never_enough() -> None:
    assert fewest_bytes(auc_of, 0.1, 10, 1000, 300).found == 10
    never = fewest_bytes(auc_of, 0.9, 10, 1000, 300)
    assert never.found is None
    assert 1000 in never.measured


def test_no_budget_is_measured_twice() -> None:
    asked: list[int] = []

    def measure(budget: int) -> float:
        asked.append(budget)
        return auc_of(budget)

    fewest_bytes(measure, 0.79, 10, 10**6, 900)
    assert len(asked) == len(set(asked))

"""Budgets over any vocabularies: kept, used, monotone, and refused with the smallest that is feasible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, TableMethod, TableOptions, full_table_bytes, methods, plan
from rectab.tables.hashed import allocate_rows

METHODS = [pytest.param(m, id=m.name) for m in methods()]
SIZES = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 3000)), min_size=1, max_size=6)
EXAMPLES = settings(deadline=None, max_examples=25)


def vocabularies_of(sizes: list[int]) -> list[Vocabulary]:
    return [Vocabulary(f"v{i}", n, counts=np.arange(n, 0, -1)) for i, n in enumerate(sizes)]


@pytest.mark.parametrize(
    ("method", "rows"),
    [(m, rows) for m in methods() for rows in ("fp32", "int8") if rows == "fp32" or not m.without_rows],
    ids=lambda value: getattr(value, "name", value),
)
@given(sizes=SIZES, half_dim=st.integers(1, 6), budget=st.integers(1, 80_000))
@EXAMPLES
def test_a_budget_is_kept_or_refused_with_the_smallest(
    method: TableMethod, rows: str, sizes: list[int], half_dim: int, budget: int
) -> None:
    vocabularies, dim, options = vocabularies_of(sizes), 2 * half_dim, TableOptions(rows=rows)
    refused = None
    try:
        planned = plan(method.name, vocabularies, dim, budget, options=options)
    except InfeasibleBudget as error:
        refused = error
    if refused is not None:
        smallest = refused.smallest_bytes
        assert smallest is not None
        assert smallest > budget
        assert plan(method.name, vocabularies, dim, smallest, options=options).serving.bytes <= smallest
        with pytest.raises(InfeasibleBudget):
            plan(method.name, vocabularies, dim, smallest - 1, options=options)
        return
    assert planned.serving.bytes <= budget
    assert planned.next_bytes is None or planned.next_bytes > budget or planned.serving.bytes == budget


@pytest.mark.parametrize("method", METHODS)
@given(sizes=SIZES, budgets=st.lists(st.integers(1, 80_000), min_size=2, max_size=5))
@EXAMPLES
def test_more_bytes_never_give_a_smaller_table(method: TableMethod, sizes: list[int], budgets: list[int]) -> None:
    vocabularies, reached = vocabularies_of(sizes), 0
    for budget in sorted(budgets):
        try:
            served = plan(method.name, vocabularies, 4, budget).serving.bytes
        except InfeasibleBudget:
            assert not reached, "a larger budget was refused after a smaller one was served"
            continue
        assert served >= reached
        reached = served


@given(SIZES, st.integers(1, 8000), st.integers(1, 200))
@settings(deadline=None, max_examples=200)
def test_rows_are_shared_out_as_said(sizes: list[int], spare: int, whole_below: int) -> None:
    """All of them; none beyond a vocabulary's ids; in proportion, to one row, but for what small ones are given."""
    total = len(sizes) + spare
    rows = allocate_rows(sizes, total, whole_below)
    assert sum(rows) == min(total, sum(sizes))
    assert all(1 <= r <= n for r, n in zip(rows, sizes, strict=True))
    if total >= sum(sizes):
        return
    floor = max(f for f in range(1, whole_below + 1) if f == 1 or sum(min(n, f) for n in sizes) <= total // 2)
    assert all(r >= min(n, floor) for r, n in zip(rows, sizes, strict=True)), "small vocabularies are kept whole"
    free = [(r, n) for r, n in zip(rows, sizes, strict=True) if min(n, floor) < r < n]
    for r, n in free:
        for other, m in free:
            assert (r - 1) / n < (other + 1) / m + 1e-9


def test_small_vocabularies_take_half_of_the_rows_at_most() -> None:
    """Ten of 20 ids could all be whole, and the large one would be left with a third of the rows."""
    rows = allocate_rows([20] * 10 + [10_000], 300, whole_below=100)
    assert rows == (13,) * 10 + (170,), "11 x 13 rows are given before shares are, 11 x 14 would be more than half"


def test_spare_rows_go_to_the_largest_remainders() -> None:
    """10 rows for 55, 35 and 10 ids: 5.5, 3.5 and 1; and where remainders tie, to the earlier vocabulary."""
    assert allocate_rows([55, 35, 10], 10, 1) == (6, 3, 1)
    assert allocate_rows([60, 39, 27], 12, 1) == (6, 4, 2)
    assert allocate_rows([52, 39, 29], 12, 1) == (5, 4, 3)


@given(SIZES, st.integers(1, 64))
@EXAMPLES
def test_the_denominator_is_counted_of_sizes_alone(sizes: list[int], dim: int) -> None:
    assert full_table_bytes(vocabularies_of(sizes), dim) == sum(sizes) * dim * 4 + 8 * len(sizes)

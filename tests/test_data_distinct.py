"""Distinct values of a column: the first of each, in order, and where every cell stands among them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.data import distinct
from rectab.data.distinct import number_distinct

CELLS = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=60).map(
        lambda cells: pl.Series(cells, dtype=pl.String)
    ),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=60).map(
        lambda cells: pl.Series(cells, dtype=pl.Int64)
    ),
)


@settings(max_examples=60, deadline=None)
@given(CELLS)
def test_every_cell_is_found_again(column: pl.Series) -> None:
    values, codes = number_distinct(column)
    assert values.to_list() == list(dict.fromkeys(column.to_list()))
    assert values.gather(codes).equals(column)


@pytest.mark.parametrize("size", [1, 2047, 2048, 2049, 300_000])
def test_the_table_grows(size: int) -> None:
    ids = np.random.default_rng(0).integers(0, size, 2 * size) * 7_919
    column = pl.Series(ids)
    values, codes = number_distinct(column)
    assert np.array_equal(values.to_numpy()[codes], ids)
    assert len(values) == column.n_unique()


def test_values_whose_first_hash_is_equal_stay_apart() -> None:
    keys = np.zeros(6, np.uint64)
    checks = np.array([5, 6, 5, 7, 6, 5], np.uint64)
    first, codes = distinct._number(keys, checks)
    assert first.tolist() == [0, 1, 3]
    assert codes.tolist() == [0, 1, 0, 2, 1, 0]

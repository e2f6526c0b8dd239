"""Which split a row belongs to."""

from __future__ import annotations

import numpy as np
import polars as pl

from rectab.data.errors import DataError
from rectab.data.recipe_parts import SplitRecipe
from rectab.data.storage import SPLITS

__all__ = ["TRAIN", "assign_splits", "rank_in_group"]

TRAIN, VALID, TEST = range(3)


def assign_splits(
    split: SplitRecipe, names: pl.Series, time: np.ndarray | None, column: pl.Series | None, group: np.ndarray | None
) -> np.ndarray:
    """uint8 [n]: 0 = train, 1 = valid, 2 = test.

    Args:
        split: the rule.
        names: the split named by each row's file.
        time: [n], what orders rows.
        column: [n], the column compared where the rule gives dates.
        group: int [n], group codes.

    Raises:
        DataError: if a split would be empty.
    """
    n = len(names)
    assigned = np.zeros(n, np.uint8)
    if split.by == "files":
        for number, name in enumerate(SPLITS):
            assigned[(names == name).to_numpy()] = number
    elif split.by == "last_per_group":
        assert group is not None
        assert time is not None
        assigned = _last_per_group(split, rank_in_group(group, time), np.bincount(group), group)
    elif split.by == "time" and split.valid_from is not None and column is not None:
        assigned = _from_value(split, column)
    else:
        order = np.arange(n)
        if split.by == "random":
            order = np.random.default_rng(split.seed).permutation(n)
        elif split.by == "time":
            assert time is not None
            order = np.argsort(time, kind="stable")
        valid, test = _number_of_rows(split.valid, n), _number_of_rows(split.test, n)
        assigned[order[max(n - test, 0) :]] = TEST
        assigned[order[max(n - test - valid, 0) : max(n - test, 0)]] = VALID
    for number, name in enumerate(SPLITS):
        if not (assigned == number).any():
            raise DataError(
                f"split by {split.by!r} leaves no rows for {name!r} out of {n:,}; change [split] in the recipe"
            )
    return assigned


def rank_in_group(group: np.ndarray, time: np.ndarray) -> np.ndarray:
    """int64 [n]: position of each row among its group's rows in (time, stored) order, from 0."""
    order = np.lexsort((time, group))
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank


def _last_per_group(split: SplitRecipe, rank: np.ndarray, sizes: np.ndarray, group: np.ndarray) -> np.ndarray:
    assert split.valid is not None
    assert split.test is not None
    from_end = sizes[group] - 1 - rank
    assigned = np.zeros(len(rank), np.uint8)
    assigned[from_end < split.test + split.valid] = VALID
    assigned[from_end < split.test] = TEST
    assigned[rank == 0] = TRAIN
    return assigned


def _from_value(split: SplitRecipe, column: pl.Series) -> np.ndarray:
    if isinstance(split.valid_from, str) != (column.dtype == pl.String):
        number = column.cast(pl.Float64, strict=False)
        column = column.cast(pl.String) if isinstance(split.valid_from, str) else number
    valid = (column >= split.valid_from).fill_null(False).to_numpy()
    test = (column >= split.test_from).fill_null(False).to_numpy()
    return (valid.astype(np.uint8) + (valid & test)).astype(np.uint8)


def _number_of_rows(size: float | None, n: int) -> int:
    assert size is not None
    return round(size * n) if size < 1 else int(size)

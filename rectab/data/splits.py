"""Which split a row belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rectab.data.errors import DataError, RecipeError
from rectab.data.ids import canonical_ids
from rectab.data.recipe_parts import SplitRecipe
from rectab.data.roles import RawColumns, layout_of
from rectab.data.storage import SPLITS
from rectab.data.times import MOMENT, TIME_NEEDED, Times, parse_time

if TYPE_CHECKING:
    from rectab.data.staged import StagedTable

__all__ = ["TRAIN", "assign_splits", "compared_by", "rank_in_group", "stage_split"]

SPLIT_TIME, SPLIT_TEXT = "__split_time", "__split_text"

TRAIN, VALID, TEST = range(3)


def stage_split(split: SplitRecipe, staging: RawColumns) -> None:
    """Stage what a split goes by, where that is not the recipe's ``time`` or ``group``.

    Raises:
        RecipeError: one border is a time and the other is not.
    """
    if split.by == "group" and split.column is not None:
        staging.key(split.column, SPLIT_TEXT, "the split's column")
    if split.by != "time" or split.column is None:
        return
    layouts = _border_layouts(split)
    if layouts is not None:
        staging.time(split.column, SPLIT_TIME, layouts)
    if layouts is None:
        staging.key(split.column, SPLIT_TEXT, "the split's column")
    elif layouts:
        staging.id(split.column, SPLIT_TEXT)


def compared_by(split: SplitRecipe, rows: StagedTable, times: Times | None) -> Times | pl.Series | None:
    """What a split goes by, [n]: ids that stay together; times, or text where the borders are words or some
    cells are no times.

    Args:
        split: the rule.
        rows: staged rows.
        times: of the recipe's ``time``, where it has one.

    Raises:
        DataError: some cells are no times, and not all are laid out like the borders.
    """
    if split.by == "group" and split.column is not None:
        return rows.column(SPLIT_TEXT)
    if split.by != "time" or split.column is None:
        return times
    layouts = _border_layouts(split)
    if layouts is None:
        return rows.column(SPLIT_TEXT)
    unread = rows.column(SPLIT_TIME).struct.field("whole").is_null()
    if not unread.any():
        return rows.times(SPLIT_TIME, split.column)
    texts = canonical_ids(rows.column(SPLIT_TEXT)).cast(pl.String)
    if not texts.to_frame().select(layout_of(pl.first()).is_in(layouts).all()).item():
        row = int(unread.arg_max() or 0)
        raise DataError(f"{rows.place(row)}, column {split.column!r}: {TIME_NEEDED}, found {texts[row]!r}")
    return texts


def _border_layouts(split: SplitRecipe) -> list[str] | None:
    """How the borders are laid out, where that is enough to compare text; [] if they must be compared as times; None if
    they are words, such as ``week-07``."""
    if split.valid_from is None or split.test_from is None:
        return []
    borders = [str(split.valid_from), str(split.test_from)]
    times = [parse_time(border) for border in borders]
    if times == [None, None]:
        return None
    if None in times:
        raise RecipeError(
            f"[split]: of valid_from = {borders[0]!r} and test_from = {borders[1]!r}, only one is a number or an "
            "ISO 8601 time; write both alike"
        )
    layouts = pl.Series(borders).to_frame().select(layout_of(pl.first())).to_series().to_list()
    return layouts if all(time is not None and time.kind == MOMENT for time in times) else []


def assign_splits(
    split: SplitRecipe,
    names: pl.Series,
    time: np.ndarray | None,
    compared: Times | pl.Series | None,
    group: np.ndarray | None,
) -> np.ndarray:
    """uint8 [n]: 0 = train, 1 = valid, 2 = test.

    Args:
        split: the rule.
        names: the split named by each row's file.
        time: [n], what orders the rows of a group.
        compared: [n], what the split goes by (:func:`compared_by`).
        group: int [n], group codes.

    Raises:
        DataError: if a split would be empty, or the borders are of another kind than the times.
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
    elif split.by == "time" and split.valid_from is not None:
        assert compared is not None
        assigned = _from_border(split, compared)
    elif split.by == "group":
        codes = compared.rank("dense").to_numpy() - 1 if isinstance(compared, pl.Series) else group
        assert codes is not None
        drawn = np.random.default_rng(split.seed).permutation(int(codes.max()) + 1)
        assigned = _last_in(drawn, split)[codes]
    else:
        order = np.arange(n)
        if split.by == "random":
            order = np.random.default_rng(split.seed).permutation(n)
        elif split.by == "time":
            assert isinstance(compared, Times)
            order = np.argsort(compared.keys()[0], kind="stable")
        assigned = _last_in(order, split)
    for number, name in enumerate(SPLITS):
        if not (assigned == number).any():
            raise DataError(
                f"split by {split.by!r} leaves no rows for {name!r} out of {n:,}; change [split] in the recipe"
            )
    return assigned


def _last_in(order: np.ndarray, split: SplitRecipe) -> np.ndarray:
    """uint8 [n]: the last of ``order`` (int [n], a permutation) are test, those before them validation."""
    n = len(order)
    valid, test = _number_of(split.valid, n), _number_of(split.test, n)
    assigned = np.full(n, TRAIN, np.uint8)
    assigned[order[max(n - test, 0) :]] = TEST
    assigned[order[max(n - test - valid, 0) : max(n - test, 0)]] = VALID
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


def _from_border(split: SplitRecipe, compared: Times | pl.Series) -> np.ndarray:
    valid, test = (_is_from(compared, key, str(getattr(split, key))) for key in ("valid_from", "test_from"))
    return (valid.astype(np.uint8) + (valid & test)).astype(np.uint8)


def _is_from(compared: Times | pl.Series, key: str, border: str) -> np.ndarray:
    """bool [n]: is the row at the border or after it?"""
    if isinstance(compared, pl.Series):
        return (canonical_ids(compared).cast(pl.String) >= border).to_numpy()
    time = parse_time(border)
    if time is None:
        raise RecipeError(
            f"[split]: {key} = {border!r} is no time, but {compared.source} is compared with it; write a number or an "
            "ISO 8601 time (2024-01-05T06:00:00)"
        )
    try:
        times, first = compared.keys(time.in_zone_of(compared))
    except DataError as error:
        raise RecipeError(f"[split]: {key}: {error}") from None
    return times >= first


def _number_of(size: float | None, n: int) -> int:
    assert size is not None
    return round(size * n) if size < 1 else int(size)

"""Which staged rows become rows of a data set, and with what labels: those of every split, or all there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rectab.data.catalogue import Catalogue
from rectab.data.errors import DataError
from rectab.data.histories import EventOrder, Groups
from rectab.data.item_columns import item_columns
from rectab.data.negatives import draw_negatives
from rectab.data.recipe import Recipe
from rectab.data.splits import TRAIN, assign_splits, compared_by
from rectab.data.staged import ITEM, LABEL, SPLIT, TIME, StagedTable
from rectab.data.storage import SPLITS

__all__ = ["ChosenRows", "FinalRows", "every_row", "rows_of_splits"]


@dataclass(frozen=True)
class FinalRows:
    """The m rows of one split.

    Attributes:
        source: int64 [m]: the staged row each comes from.
        item_source: int64 [m]: the staged row its item columns come from (another one for a negative).
        labels: float32 [m]; NaN where labels are not read.
    """

    source: np.ndarray
    item_source: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ChosenRows:
    """The rows of all splits.

    Attributes:
        recipe: of the rows, with a generator's options filled in.
        splits: train, valid and test, negatives included; or one of all rows.
        catalogue: what negatives are drawn from; None if none are drawn.
    """

    recipe: Recipe
    splits: list[FinalRows]
    catalogue: Catalogue | None = None

    def rows_for(self, column: str, split: int) -> np.ndarray:
        """int64 [m]: the staged row that each of the split's m rows takes ``column`` from.

        Columns of the item are another row's where the row is a negative; all others are the row's own.

        Args:
            column: a raw column.
            split: 0 train, 1 valid, 2 test.
        """
        return self.splits[split].item_source if self.is_item(column) else self.splits[split].source

    @property
    def redrawn(self) -> Catalogue | None:
        """What every epoch of training draws its negatives from; None where they stay."""
        negatives = self.recipe.negatives
        return self.catalogue if negatives is not None and negatives.redraw == "epoch" else None

    def is_item(self, column: str) -> bool:
        """Does the column change with the item of a negative?"""
        return column in self._item_columns

    @cached_property
    def _item_columns(self) -> frozenset[str]:
        return item_columns(self.recipe)


def every_row(recipe: Recipe, rows: StagedTable, orders: list[EventOrder]) -> ChosenRows:
    """All n rows in their order, as one split; no negatives are drawn. Those with fewer events than the recipe asks
    for are left out.

    Args:
        recipe: with a generator's options filled in.
        rows: n staged rows.
        orders: the events of every behaviour.
    """
    source = np.flatnonzero(_enough_events(recipe, rows, orders))
    return ChosenRows(recipe, [FinalRows(source, source, _labels(recipe, rows)[source])])


def rows_of_splits(
    recipe: Recipe,
    rows: StagedTable,
    groups: Groups | None,
    orders: list[EventOrder],
    tell: Callable[[str], None],
) -> ChosenRows:
    """The rows of train, valid and test, with the negatives that the recipe asks for.

    Args:
        recipe: with a generator's options filled in.
        rows: n staged rows.
        groups: of the staged rows; None if the recipe has no group.
        orders: the events of every behaviour.
        tell: called with a line of text.

    Raises:
        DataError: a split is left without rows, or no negative can be drawn for a group.
    """
    assigned, kept = _assigned(recipe, rows, groups), _enough_events(recipe, rows, orders)
    found = []
    for number, name in enumerate(SPLITS):
        source = np.flatnonzero((assigned == number) & kept)
        if not len(source):
            raise DataError(f"no rows are left for {name!r}: change [split] or min_history in the recipe")
        found.append(source)
    if recipe.negatives is not None:
        assert groups is not None
        tell("drawing negatives")
        return _with_negatives(recipe, rows, groups, found)
    labels = _labels(recipe, rows)
    return ChosenRows(recipe, [FinalRows(source, source, labels[source]) for source in found])


def _labels(recipe: Recipe, rows: StagedTable) -> np.ndarray:
    """float32 [n]; NaN where the recipe reads none."""
    return np.full(rows.rows, np.nan, np.float32) if recipe.label is None else rows.column(LABEL).to_numpy()


def _enough_events(recipe: Recipe, rows: StagedTable, orders: list[EventOrder]) -> np.ndarray:
    """bool [n]: has the row as many events in the first behaviour as the recipe asks for?"""
    return orders[0].ranges[:, 1] >= recipe.min_history if recipe.min_history else np.ones(rows.rows, bool)


def _assigned(recipe: Recipe, rows: StagedTable, groups: Groups | None) -> np.ndarray:
    """uint8 [n]: the split of every staged row."""
    times = None if recipe.time is None else rows.times(TIME, recipe.time)
    compared = compared_by(recipe.split, rows, times)
    group = None if groups is None else groups.codes
    time = None if times is None else times.keys()[0]
    return assign_splits(recipe.split, rows.column(SPLIT), time, compared, group)


def _with_negatives(recipe: Recipe, rows: StagedTable, groups: Groups, found: list[np.ndarray]) -> ChosenRows:
    """Every positive row followed by its negatives."""
    negatives = recipe.negatives
    assert negatives is not None
    positives = np.concatenate(found)
    catalogue = Catalogue.of(groups, rows.column(ITEM), found[TRAIN], negatives.draw)
    catalogue.check(groups, positives)
    drawn = draw_negatives(catalogue.candidates, groups.codes[positives], negatives.ratio, negatives.seed)
    item_source = np.concatenate([positives[:, None], catalogue.first_row[drawn]], axis=1)
    labels = np.zeros(item_source.shape, np.float32)
    labels[:, 0] = 1
    ends = np.cumsum([len(source) for source in found])[:-1]
    pieces = zip(found, np.split(item_source, ends), np.split(labels, ends), strict=True)
    splits = [FinalRows(np.repeat(s, negatives.ratio + 1), i.ravel(), y.ravel()) for s, i, y in pieces]
    return ChosenRows(recipe, splits, catalogue)

"""The items that negatives are drawn from, and the staged row that says what each of them is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rectab.data.candidates import Candidates
from rectab.data.errors import DataError
from rectab.data.histories import Groups

__all__ = ["Catalogue"]


@dataclass(frozen=True)
class Catalogue:
    """The C items of all splits, as places 0 .. C - 1 in the order of their values.

    Attributes:
        first_row: int64 [C]: the first staged row of every item; a negative takes the item's columns from it.
        weights: int64 [C], the positive training rows of every item, where popular items are drawn more often; None
            where all are drawn alike.
        candidates: which items a group may be given: none that it has in any split.
    """

    first_row: np.ndarray
    weights: np.ndarray | None
    candidates: Candidates

    @classmethod
    def of(cls, groups: Groups, item: pl.Series, training: np.ndarray, draw: str) -> Catalogue:
        """From n staged rows.

        Args:
            groups: of the rows.
            item: [n], the item column.
            training: int64 [m], the positive rows of training.
            draw: ``uniform`` or ``popularity``.
        """
        places = Groups.of(item).codes
        _, first_row = np.unique(places, return_index=True)
        weights = np.bincount(places[training], minlength=len(first_row)) if draw == "popularity" else None
        return cls(first_row, weights, Candidates.of(groups.codes, places, len(first_row), weights))

    def drawable(self) -> np.ndarray:
        """int64 [*]: the first staged rows of the items that may be drawn for some group."""
        return self.first_row if self.weights is None else self.first_row[self.weights > 0]

    def check(self, groups: Groups, positives: np.ndarray) -> None:
        """Refuse positives (int64 [m], staged rows) for which no negative can be drawn.

        Raises:
            DataError: a group has every item there is; it is named.
        """
        needing = groups.codes[positives]
        full = needing[self.candidates.free()[needing] == 0]
        if len(full):
            kind = "item" if self.weights is None else "item that occurs in training"
            raise DataError(
                f"negative sampling: group {groups.values[int(full[0])]!r} has every {kind}, so no negative can be "
                f"drawn for it ({len(np.unique(full)):,} such groups); leave such groups out of the files"
            )

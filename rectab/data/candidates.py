"""Which items a group may be given as negatives, and drawing one of them in the time of a binary search."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from rectab.jit import compiled, kernel

__all__ = ["Candidates"]


@dataclass(frozen=True)
class Candidates:
    """The catalogue, C items as places 0 .. C - 1 with a weight each, and which of them each of G groups has.

    A group is given the items that it does not have, in proportion to their weights. Nothing is drawn and rejected: a
    group that lacks a single item of a million is served as fast as any other.

    Attributes:
        starts: int64 [G + 1]: group g has the items ``owned[starts[g]:starts[g + 1]]``.
        owned: int32 [O]: places, ascending within a group, each once.
        ends: int64 [C]: running sum of the weights of the catalogue; empty where every item weighs 1.
        owned_ends: int64 [O]: running sum of the weights of a group's items, from 0 in every group; empty likewise.
        size: C.
    """

    starts: np.ndarray
    owned: np.ndarray
    ends: np.ndarray
    owned_ends: np.ndarray
    size: int

    @classmethod
    def of(cls, group: np.ndarray, item: np.ndarray, size: int, weights: np.ndarray | None = None) -> Candidates:
        """From rows that say who has what.

        Args:
            group: int64 [n], 0 .. G - 1, each at least once.
            item: int64 [n], the places of the groups' items; a pair may occur many times.
            size: C.
            weights: int64 [C], at least 0; None weighs every item 1.
        """
        pairs = np.unique(group * size + item)
        groups, owned = pairs // size, pairs % size
        starts = np.concatenate([[0], np.cumsum(np.bincount(groups))])
        ends = owned_ends = np.empty(0, np.int64)
        if weights is not None:
            ends = np.cumsum(weights, dtype=np.int64)
            sums = np.concatenate([[0], np.cumsum(weights[owned], dtype=np.int64)])
            owned_ends = sums[1:] - sums[starts[groups]]
        return cls(starts, owned.astype(np.int32), ends, owned_ends, size)

    @classmethod
    def array_names(cls) -> list[str]:
        """The fields that are arrays."""
        return [field.name for field in fields(cls) if field.name != "size"]

    @cached_property
    def pairs(self) -> np.ndarray:
        """int64 [O], ascending: ``group * C + place`` of everything that a group has."""
        groups = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return groups * self.size + self.owned

    def has(self, groups: np.ndarray, places: np.ndarray) -> np.ndarray:
        """bool [m]: does the group (int64 [m]) have the item (int64 [m])?"""
        asked = groups * self.size + places
        return self.pairs[np.searchsorted(self.pairs, asked).clip(max=len(self.pairs) - 1)] == asked

    def free(self) -> np.ndarray:
        """int64 [G]: what the items that a group does not have weigh together."""
        out = np.empty(len(self.starts) - 1, np.int64)
        _free(self.starts, self.ends, self.owned_ends, self.size, out)
        return out

    def draw(self, groups: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Draw one item for each of m rows.

        Args:
            groups: int64 [m]; each has some weight free.
            uniform: float64 [m] in [0, 1).

        Returns:
            int64 [m]: places.
        """
        out = np.empty(len(groups), np.int64)
        _draw(groups, uniform, self.starts, self.owned, self.ends, self.owned_ends, self.size, out)
        return out


@compiled
def _weight_before(ends, place):  # type: ignore[no-untyped-def]
    """Weight of the catalogue's first ``place`` items."""
    if len(ends) == 0:
        return np.int64(place)
    return ends[place - 1] if place > 0 else np.int64(0)


@compiled
def _owned_before(owned_ends, first, position):  # type: ignore[no-untyped-def]
    """Weight of ``owned[first:position]``, items of one group."""
    if len(owned_ends) == 0:
        return np.int64(position - first)
    return owned_ends[position - 1] if position > first else np.int64(0)


@kernel
def _free(starts, ends, owned_ends, size, out):  # type: ignore[no-untyped-def]
    for group in range(len(out)):
        out[group] = _weight_before(ends, size) - _owned_before(owned_ends, starts[group], starts[group + 1])


@kernel
def _draw(groups, uniform, starts, owned, ends, owned_ends, size, out):  # type: ignore[no-untyped-def]
    """Weight is a line; a group's own items are cut out of it, and the number finds its place on what is left."""
    for i in range(len(groups)):
        first, last = starts[groups[i]], starts[groups[i] + 1]
        at = np.int64(uniform[i] * (_weight_before(ends, size) - _owned_before(owned_ends, first, last)))
        low, high = first, last  # of the items cut out, those before ``low`` lie before the number
        while low < high:
            middle = (low + high) // 2
            if _weight_before(ends, owned[middle]) - _owned_before(owned_ends, first, middle) <= at:
                low = middle + 1
            else:
                high = middle
        at += _owned_before(owned_ends, first, low)
        out[i] = at if len(ends) == 0 else np.searchsorted(ends, at, side="right")

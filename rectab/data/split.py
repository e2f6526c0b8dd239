"""One split of a prepared data set: batches gathered row by row from memory-mapped arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from rectab.batch import Batch
from rectab.data.history_store import HistoryStore
from rectab.data.negatives import Redraw
from rectab.schema import Feature, Schema, Vocabulary

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """The rows of one split, or (see :meth:`restrict`) some of them.

    Attributes:
        name: ``train``, ``valid``, ``test``, or what :meth:`restrict` made of it.
        schema: the columns.
    """

    name: str
    schema: Schema
    _ids: np.ndarray = field(repr=False)
    _dense: np.ndarray = field(repr=False)
    _labels: np.ndarray = field(repr=False)
    _groups: np.ndarray | None = field(repr=False)
    _probability: np.ndarray | None = field(repr=False)
    _histories: tuple[HistoryStore, ...] = field(repr=False)
    _rows: np.ndarray | None = field(default=None, repr=False)
    _redraw: Redraw | None = field(default=None, repr=False)
    _kept: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    """Columns of the ids and of the floats that the schema still has, see :mod:`rectab.data.selection`."""

    def check_shapes(self) -> None:
        """Raises ValueError where the arrays are not those of one split under the schema."""
        rows = self._labels.shape[:1]
        wanted = [("ids", self._ids, (*rows, len(self.schema.categorical)))]
        wanted += [("dense", self._dense, (*rows, len(self.schema.dense))), ("labels", self._labels, rows)]
        wanted += [(f"history_{b}", store.ranges, (*rows, 2)) for b, store in enumerate(self._histories)]
        optional = (("groups", self._groups), ("probability", self._probability))
        wanted += [(name, array, rows) for name, array in optional if array is not None]
        for name, array, shape in wanted:
            if array.shape != shape:
                raise ValueError(
                    f"{self.name}/{name} is {list(array.shape)}, by its labels and the schema {list(shape)}"
                )
        for store in self._histories:
            if len({values.shape for values in store.values if values is not None}) > 1:
                raise ValueError(f"the sequences of {store.features[0].behaviour!r} are not equally long")

    def __len__(self) -> int:
        return len(self._labels) if self._rows is None else len(self._rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """float32 [n]: 0 or 1, or ratings."""
        return self._select(self._labels)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """int64 [n]: the group (usually the user) each row counts in for GAUC; None if the recipe has none."""
        return None if self._groups is None else self._select(self._groups)

    @cached_property
    def probability(self) -> np.ndarray | None:
        """float32 [n]: the true click probability, known for synthetic data only.

        Its AUC is the best that any model can reach.
        """
        return None if self._probability is None else self._select(self._probability)

    def column(self, feature: str) -> np.ndarray:
        """int32 or int64 [n]: the ids of one categorical feature. Raises KeyError if there is none of that name."""
        index = self.schema.categorical_index(feature)
        return self._select(self._ids[:, index if self._kept is None else self._kept[0][index]])

    def batch(self, rows: np.ndarray | slice, max_history: int | None = None, salt: int | None = None) -> Batch:
        """Gather rows.

        Args:
            rows: int64 [B], positions in this split in any order, or a slice (the cheap case: read in one piece).
            max_history: keep only this many most recent events of every history; None keeps what was prepared.
            salt: where the recipe has negatives drawn anew in every epoch, draw those of the epoch with this salt
                (:func:`rectab.data.negatives.salt_of_epoch`); None gives the stored ones. Of no effect elsewhere.

        Raises:
            IndexError: if a row is out of range.
        """
        if self._rows is not None:
            rows = self._rows[rows]
        redraw = None if salt is None else self._redraw
        if redraw is not None and isinstance(rows, slice):
            rows = np.arange(len(self._labels))[rows]  # a slice would be of the stored arrays, which stay as they are
        ids, dense = self._ids[rows].astype(np.int64, copy=False), self._dense[rows]
        if redraw is not None:
            assert salt is not None
            assert self._groups is not None
            assert not isinstance(rows, slice)
            redraw.apply(salt, rows, self._labels[rows], self._groups[rows], ids, dense)
        if self._kept is not None:
            ids, dense = ids[:, self._kept[0]], dense[:, self._kept[1]]
        return Batch(
            ids=torch.from_numpy(ids),
            dense=torch.from_numpy(dense),
            histories={k: v for store in self._histories for k, v in store.gather(rows, max_history).items()},
            labels=torch.from_numpy(self._labels[rows]),
            groups=None if self._groups is None else torch.from_numpy(self._groups[rows]),
        )

    def history_lengths(self, behaviour: str) -> np.ndarray:
        """int64 [n]: events of the behaviour that each row sees. Raises KeyError if there is none of that name."""
        for name, store in zip(self.schema.behaviours, self._histories, strict=True):
            if name == behaviour:
                return self._select(store.ranges[:, 1])
        raise KeyError(f"no behaviour {behaviour!r}; the schema has {list(self.schema.behaviours)}")

    def occurrences(self, max_history: int | None = None) -> dict[str, np.ndarray]:
        """How often a pass over these rows reads each id, in the categorical columns and in the histories.

        Args:
            max_history: as for :meth:`batch`; 0 counts the categorical columns only.

        Returns:
            By vocabulary, int64 [num_embeddings], in the order of ``Vocabulary.known_ids``.
        """
        counts = {v.name: np.zeros(v.num_embeddings, np.int64) for v in self.schema.vocabularies}
        for feature in self.schema.categorical:
            counts[feature.vocabulary] += _count(self._vocabulary(feature), self.column(feature.name), None)
        for store in self._histories if max_history != 0 else ():
            rows = np.arange(len(self._labels)) if self._rows is None else self._rows
            seen, contexts = store.times_seen(rows, max_history), store.context_counts(rows, max_history)
            for feature, values in zip(store.features, store.values, strict=True):
                if feature.context is not None:
                    counts[feature.vocabulary] += contexts[feature.name]
                elif values is not None:
                    counts[feature.vocabulary] += _count(self._vocabulary(feature), values, seen)
        return counts

    def _vocabulary(self, feature: Feature) -> Vocabulary:
        return self.schema.vocabularies[self.schema.vocabulary_index(feature.vocabulary)]

    def restrict(self, rows: np.ndarray, name: str | None = None) -> Split:
        """A split of only these rows (int64 [m], positions in this split), in this order. Nothing is copied."""
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows of split {self.name!r} go from 0 to {len(self) - 1}")
        chosen = rows if self._rows is None else self._rows[rows]
        return replace(self, name=name or f"{self.name} (part)", _rows=chosen)

    def sample_halves(self, seed: int) -> tuple[Split, Split]:
        """Cut in two at random, for methods that learn from validation: (half to learn from, half that selects).

        The same seed gives the same halves. Rows keep their order within a half.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        middle = len(self) // 2
        learn, select = np.sort(order[:middle]), np.sort(order[middle:])
        return self.restrict(learn, f"{self.name} (learn)"), self.restrict(select, f"{self.name} (select)")

    def _select(self, array: np.ndarray) -> np.ndarray:
        return array if self._rows is None else array[self._rows]


def _count(vocabulary: Vocabulary, ids: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """int64 [num_embeddings]: occurrences of every known id in ``ids`` [n], each ``times`` [n] over (once if None)."""
    places = np.asarray(ids)
    if vocabulary.hashed:
        known = vocabulary.known_ids()
        places = np.searchsorted(known, ids).clip(0, len(known) - 1)
        is_known = known[places] == ids
        places, times = places[is_known], None if times is None else times[is_known]
    # float64 weights count exactly up to 2**53.
    return np.bincount(places, times, minlength=vocabulary.num_embeddings).astype(np.int64)

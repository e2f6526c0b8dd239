"""Users and the items they have: what a data set is to the objective ``topk``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rectab.data.dataset import PreparedDataset
from rectab.data.split import Split

__all__ = ["Interactions", "positives"]


def positives(split: Split) -> Split:
    """The rows of ``split`` whose label is positive; the split itself where all are."""
    positive = split.labels > 0.5
    return split if positive.all() else split.restrict(np.flatnonzero(positive), split.name)


@dataclass(frozen=True)
class Interactions:
    """A data set of two categorical features, a user and an item; rows with a positive label are interactions.

    Attributes:
        dataset: the data.
        user_column, item_column: of ``Batch.ids``.
    """

    dataset: PreparedDataset
    user_column: int
    item_column: int

    @classmethod
    def of(cls, dataset: PreparedDataset) -> Interactions:
        """Raises ValueError, which says what to leave out, for a data set that is no table of users and items."""
        schema, name = dataset.schema, dataset.name
        names = [feature.name for feature in schema.categorical]
        if schema.group not in names:
            raise ValueError(f"{name}: topk ranks items for the group, and no feature is the group; features: {names}")
        others = [other for other in names if other != schema.group]
        if len(others) != 1 or schema.dense or schema.behaviours:
            raise ValueError(
                f"{name}: topk needs one feature beside the group {schema.group!r}, the item, and found "
                f"{[*others, *schema.dense, *schema.behaviours]}; leave the others out with --without NAME"
            )
        hashed = [
            f.name for f in schema.categorical if schema.vocabularies[schema.vocabulary_index(f.vocabulary)].hashed
        ]
        if hashed:
            raise ValueError(
                f"{name}: topk ranks known ids, and {hashed[0]!r} is hashed; prepare it with hashed = false"
            )
        return cls(dataset, names.index(schema.group), names.index(others[0]))

    @property
    def num_items(self) -> int:
        """Ids of items, of which 0 stands for items that training does not have."""
        feature = self.dataset.schema.categorical[self.item_column]
        return self.dataset.schema.vocabularies[self.dataset.schema.vocabulary_index(feature.vocabulary)].num_embeddings

    def pairs(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """(users, items), int64 [n] both, of the interactions of ``split``, in its order."""
        names = [feature.name for feature in split.schema.categorical]
        positive = split.labels > 0.5
        users, items = (split.column(names[column])[positive] for column in (self.user_column, self.item_column))
        return users.astype(np.int64), items.astype(np.int64)

    def keys(self, *splits: Split) -> np.ndarray:
        """int64 [m], ascending, each once: ``user * num_items + item`` of the interactions of ``splits``."""
        pairs = [self.pairs(split) for split in splits]
        return np.unique(np.concatenate([users * self.num_items + items for users, items in pairs]))

    @cached_property
    def known(self) -> np.ndarray:
        """:meth:`keys` of training."""
        return self.keys(self.dataset.train)

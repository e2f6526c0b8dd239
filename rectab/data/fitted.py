"""What a data set learned from its training rows, to be put to other rows: rules of numbers, and values to ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rectab.data.id_map import IdMap
from rectab.data.numbers import BinRule, DenseRule
from rectab.data.vocabularies import hash_values
from rectab.plain import read_plain

__all__ = ["Fitted", "InputRule"]


@dataclass(frozen=True)
class InputRule:
    """One feature as ``schema.json`` tells it.

    Attributes:
        name, column, type: of the feature.
        rule: of a dense feature its :class:`DenseRule`, of a binned one its :class:`BinRule`, as plain data; else None.
    """

    name: str
    column: str
    type: str
    rule: dict[str, Any] | None = None

    def read(self) -> BinRule | DenseRule | None:
        """The rule. Raises ValueError if it is none."""
        if self.rule is None:
            return None
        place = f"inputs.{self.name}"
        if self.type == "dense":
            return read_plain(DenseRule, self.rule, place)
        return read_plain(BinRule, self.rule, place)


@dataclass(frozen=True)
class Fitted:
    """What was learned from training rows.

    Attributes:
        rules: by feature name, how a number becomes a bin or a dense input.
        ids: from raw values to ids, of every vocabulary that is not hashed.
    """

    rules: Mapping[str, BinRule | DenseRule]
    ids: IdMap

    @classmethod
    def of(cls, inputs: Sequence[InputRule], ids: IdMap) -> Fitted:
        """From what a data set's ``schema.json`` tells of its inputs. Raises ValueError for a rule that is none."""
        rules = {told.name: rule for told in inputs if (rule := told.read()) is not None}
        return cls(rules, ids)

    def ids_of(self, vocabulary: str, values: pl.Series, hashed: bool) -> np.ndarray:
        """int64 [n]: the ids of canonical values (:func:`rectab.data.ids.canonical_ids`): those of the data set, and
        id 0 for a value that training did not have.

        Args:
            vocabulary: its name.
            values: [n].
            hashed: ids are hashes of the values, so that every value has one.
        """
        return hash_values(values) if hashed else self.ids.vocabularies[vocabulary].ids_of(values)

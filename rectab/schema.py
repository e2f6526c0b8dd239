"""What the columns of a data set are: vocabularies, the features that draw from them, and the schema that holds both.

Everything here is plain data and round-trips through JSON (counts and hashed ids stay in
arrays beside it, see :mod:`rectab.data.dataset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rectab.plain import read_plain

__all__ = ["Feature", "Schema", "Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """A set of ids with a name, a size and training counts.

    A *fitted* vocabulary has the ids ``0 .. num_embeddings - 1``; id 0 is "unseen or rare". A *hashed* one has no
    closed set: ids are any int64 (xxhash of the raw value) and ``num_embeddings`` is the number of distinct ids seen
    in training.

    Attributes:
        name: unique within a schema.
        num_embeddings: number of ids (fitted) or distinct training ids (hashed); at least 1.
        hashed: True if ids are arbitrary int64 values.
        counts: int64 [num_embeddings], how often each id occurs in the training split; None if not known.
        ids: int64 [num_embeddings], for a hashed vocabulary the distinct training ids, ascending (the ids that
            ``counts`` counts); None for a fitted one.
    """

    name: str
    num_embeddings: int
    hashed: bool = False
    counts: np.ndarray | None = field(default=None, compare=False, repr=False)
    ids: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_embeddings < 1:
            raise ValueError(f"vocabulary {self.name!r}: num_embeddings must be at least 1, got {self.num_embeddings}")
        for label, array in (("counts", self.counts), ("ids", self.ids)):
            if array is not None and array.shape != (self.num_embeddings,):
                raise ValueError(
                    f"vocabulary {self.name!r}: {label} has shape {array.shape}, expected ({self.num_embeddings},)"
                )

    def known_ids(self) -> np.ndarray:
        """int64 [num_embeddings]: every id of a fitted vocabulary, or the training ids of a hashed one."""
        if not self.hashed:
            return np.arange(self.num_embeddings, dtype=np.int64)
        if self.ids is None:
            raise ValueError(f"vocabulary {self.name!r} is hashed and its training ids are not loaded")
        return self.ids

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "num_embeddings": self.num_embeddings, "hashed": self.hashed}


@dataclass(frozen=True)
class Feature:
    """A column that draws from one vocabulary: once a row (``categorical``) or as a history (``sequence``).

    Attributes:
        name: the column's name, unique within a schema.
        vocabulary: name of the vocabulary it draws from.
        kind: ``categorical`` or ``sequence``.
        behaviour: for a sequence, the behaviour it belongs to (``click``, ``like``). The sequences of one behaviour
            have the same lengths position by position (item and category of the same event) and share one tower.
        target: for a sequence, the categorical feature it is compared with by attention; None if there is none.
        context: for a sequence, what it says of an event in place of a stored attribute: ``position`` (how many events
            back) or ``time_gap`` (how long before the row); None for a stored attribute.
        edges: of the buckets of a ``context``, see :mod:`rectab.data.context`.
    """

    name: str
    vocabulary: str
    kind: Literal["categorical", "sequence"] = "categorical"
    behaviour: str | None = None
    target: str | None = None
    context: Literal["position", "time_gap"] | None = None
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("categorical", "sequence"):
            raise ValueError(f"feature {self.name!r}: kind must be 'categorical' or 'sequence', got {self.kind!r}")
        if self.kind == "sequence" and self.behaviour is None:
            raise ValueError(f"feature {self.name!r}: a sequence needs the name of its behaviour")
        if self.context is not None and (self.kind != "sequence" or self.target is not None or not self.edges):
            raise ValueError(f"feature {self.name!r}: a context is a sequence with edges and without a target")


@dataclass(frozen=True)
class Schema:
    """The columns of a prepared data set.

    Attributes:
        vocabularies: in a fixed order; a table numbers them by position.
        features: all features. Column j of ``Batch.ids`` is the j-th categorical feature.
        dense: names of the float columns, in the order of ``Batch.dense``.
        label: name of the label column.
        group: name of the column whose value groups rows for GAUC (usually the user); None if there is none.
        slice_by: the categorical feature whose training counts define the head, torso, tail and unseen slices.
    """

    vocabularies: tuple[Vocabulary, ...]
    features: tuple[Feature, ...]
    dense: tuple[str, ...] = ()
    label: str = "label"
    group: str | None = None
    slice_by: str | None = None

    def __post_init__(self) -> None:
        _check_unique("vocabulary", [v.name for v in self.vocabularies])
        _check_unique("feature", [f.name for f in self.features] + list(self.dense))
        names = {v.name for v in self.vocabularies}
        categorical = {f.name: f for f in self.features if f.kind == "categorical"}
        for feature in self.features:
            if feature.vocabulary not in names:
                raise ValueError(f"feature {feature.name!r} draws from unknown vocabulary {feature.vocabulary!r}")
            if feature.target is None:
                continue
            if feature.target not in categorical:
                raise ValueError(f"sequence {feature.name!r}: target {feature.target!r} is not a categorical feature")
            if categorical[feature.target].vocabulary != feature.vocabulary:
                raise ValueError(f"sequence {feature.name!r} and its target draw from different vocabularies")
        if self.slice_by is not None and self.slice_by not in categorical:
            raise ValueError(f"slice_by {self.slice_by!r} is not a categorical feature")

    @cached_property
    def categorical(self) -> tuple[Feature, ...]:
        """The categorical features, in the order of ``Batch.ids``' columns."""
        return tuple(f for f in self.features if f.kind == "categorical")

    @cached_property
    def behaviours(self) -> dict[str, tuple[Feature, ...]]:
        """The sequence features by behaviour, in schema order."""
        groups: dict[str, tuple[Feature, ...]] = {}
        for feature in self.features:
            if feature.behaviour is not None and feature.kind == "sequence":
                groups[feature.behaviour] = (*groups.get(feature.behaviour, ()), feature)
        return groups

    @cached_property
    def mapped_vocabularies(self) -> tuple[Vocabulary, ...]:
        """Those whose ids are found by looking raw values up: neither hashed nor the buckets of a context."""
        buckets = {f.vocabulary for f in self.features if f.context is not None}
        return tuple(v for v in self.vocabularies if not v.hashed and v.name not in buckets)

    def vocabulary_index(self, name: str) -> int:
        """Position of the named vocabulary. Raises KeyError if there is none."""
        for index, vocabulary in enumerate(self.vocabularies):
            if vocabulary.name == name:
                return index
        raise KeyError(f"no vocabulary {name!r}; the schema has {[v.name for v in self.vocabularies]}")

    def categorical_index(self, name: str) -> int:
        """Column of ``Batch.ids`` that holds the named categorical feature. Raises KeyError if there is none."""
        for index, feature in enumerate(self.categorical):
            if feature.name == name:
                return index
        raise KeyError(f"no categorical feature {name!r}; the schema has {[f.name for f in self.categorical]}")

    def to_json(self) -> dict[str, Any]:
        """Plain data, without counts and hashed ids; :meth:`from_json` reads it back."""
        features = [
            {"name": f.name, "vocabulary": f.vocabulary, "kind": f.kind, "behaviour": f.behaviour, "target": f.target}
            | ({} if f.context is None else {"context": f.context, "edges": list(f.edges)})
            for f in self.features
        ]
        return {
            "vocabularies": [v.to_json() for v in self.vocabularies],
            "features": features,
            "dense": list(self.dense),
            "label": self.label,
            "group": self.group,
            "slice_by": self.slice_by,
        }

    @classmethod
    def from_json(
        cls,
        data: Any,
        counts: Mapping[str, np.ndarray] | None = None,
        ids: Mapping[str, np.ndarray] | None = None,
    ) -> Schema:
        """Read :meth:`to_json` back, ``counts`` and ``ids`` by vocabulary name. Raises ValueError for other data."""
        counts, ids = counts or {}, ids or {}
        schema = read_plain(cls, data, "schema")
        vocabularies = [replace(v, counts=counts.get(v.name), ids=ids.get(v.name)) for v in schema.vocabularies]
        return replace(schema, vocabularies=tuple(vocabularies))


def _check_unique(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} names must be unique; repeated: {repeated}")

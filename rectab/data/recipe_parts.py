"""The parts of a recipe: what columns mean, and how histories, splits and negatives are made."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rectab.data.recipe_files import InputFiles, Location, Strict

__all__ = [
    "ContextRecipe",
    "Derived",
    "FeatureRecipe",
    "HistoryRecipe",
    "LabelRecipe",
    "NegativeSampling",
    "PriorHistory",
    "SequenceRecipe",
    "SplitRecipe",
]


class Derived(Strict):
    """A column computed from others by an SQL expression (polars SQL), after the side tables are joined.

    Columns of delimited files are text: use CAST where a number is meant.
    """

    name: str
    sql: str


class LabelRecipe(Strict):
    """The label: a column that holds 0 or 1, is compared with a threshold or with words, or is a number to predict.

    Attributes:
        column: its name.
        at_least: if given, a row is positive if the column's number is at least this.
        positive: if given, a row is positive if the column holds one of these values, and negative otherwise.
        rating: the number itself is predicted (``objective = "mse"``).
    """

    column: str
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    positive: tuple[str | int | float | bool, ...] | None = Field(default=None, min_length=1)
    rating: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> LabelRecipe:
        if self.rating and self.at_least is not None:
            raise ValueError("label: give at_least (clicks) or rating, not both")
        if self.positive is not None and (self.rating or self.at_least is not None):
            raise ValueError("label: give positive (words), at_least (numbers) or rating, only one of them")
        return self


class FeatureRecipe(Strict):
    """An input column.

    Attributes:
        name: of the feature.
        column: where it comes from; the feature's name if not given.
        type: ``categorical`` (an id) or ``dense`` (a float).
        vocabulary: the vocabulary it draws from; its own name if not given. Features that share one get equal ids.
        min_count: values seen fewer times in training become id 0. Features that share a vocabulary must agree.
        hashed: no vocabulary; the id is a 64-bit hash of the value, and any new value is served.
        transform: for ``dense``: ``none``, ``log`` = log1p(max(x, 0)), ``standardize`` = (x - mean) / std of the
            training rows, ``log_standardize`` = both. A missing number becomes 0 after the transform
            (the mean, if standardised).
        bins: for ``categorical``: turn a number into an id. ``quantile`` = equal-frequency bins of the training
            rows, ``bucketize`` = between given ``edges``, ``log_squared`` = floor(log(x)^2) for x > 2, else x
            truncated (the Criteo winner's rule).
        num_bins: for ``quantile``.
        edges: for ``bucketize``: ascending; bin k holds edges[k-1] <= x < edges[k].
    """

    name: str
    column: str = ""
    type: Literal["categorical", "dense"] = "categorical"
    vocabulary: str = ""
    min_count: int = Field(default=1, ge=1)
    hashed: bool = False
    transform: Literal["none", "log", "standardize", "log_standardize"] = "none"
    bins: Literal["quantile", "bucketize", "log_squared"] | None = None
    num_bins: int = Field(default=32, ge=2)
    edges: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_names(cls, data: object) -> object:
        if isinstance(data, dict) and "name" in data:
            data = {**data, "column": data.get("column") or data["name"]}
            data["vocabulary"] = data.get("vocabulary") or data["name"]
        return data

    @model_validator(mode="after")
    def _check(self) -> FeatureRecipe:
        if self.type == "dense" and (self.bins or self.hashed or self.min_count > 1):
            raise ValueError(f"feature {self.name!r}: bins, hashed and min_count are for categorical features")
        if self.type == "categorical" and self.transform != "none":
            raise ValueError(f"feature {self.name!r}: transform is for dense features; use bins")
        if (self.bins == "bucketize") != bool(self.edges):
            raise ValueError(f"feature {self.name!r}: bins = 'bucketize' and edges go together")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"feature {self.name!r}: edges must be ascending")
        return self


class SequenceRecipe(Strict):
    """One attribute of a behaviour's events.

    Attributes:
        name: of the sequence feature.
        column: the events' column (for ``source = "list"``, the row's list column).
        target: the categorical feature attention compares it with; it draws from the target's vocabulary.
        vocabulary: the vocabulary it draws from, where there is no target.
    """

    name: str
    column: str
    target: str | None = None
    vocabulary: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SequenceRecipe:
        if (self.target is None) == (self.vocabulary is None):
            raise ValueError(f"sequence {self.name!r}: give either target or vocabulary")
        return self


class ContextRecipe(Strict):
    """What an event is to the row that reads it, as a sequence of bucket ids that attention reads beside the event.

    Attributes:
        name: of the sequence feature, and of its vocabulary.
        of: ``position`` = how many events back it is (1 is the most recent), ``time_gap`` = the row's time minus the
            event's, in the unit of the time column (moments: seconds); prior events have none and get id 0.
        edges: ascending; bucket k holds edges[k-1] <= x < edges[k].
    """

    name: str
    of: Literal["position", "time_gap"]
    edges: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> ContextRecipe:
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"context {self.name!r}: edges must be ascending")
        return self


class PriorHistory(InputFiles):
    """Events from before the log begins: one row per group with list columns, oldest first.

    Attributes:
        lists: column of the events -> list column of this file. Side tables fill the events' other columns.
        group: the group column's name in this file if it is not the recipe's.
    """

    lists: dict[str, str]
    group: str | None = None


class HistoryRecipe(Location):
    """A behaviour: events of a row's group from before the row.

    Attributes:
        behaviour: its name.
        source: ``log`` = the rows themselves, ``events`` = another file, ``list`` = list columns of the row.
        where: SQL condition a log row or event must meet to become an event (``long_view = 1``).
        by: ``time`` = a row sees events of strictly earlier time; ``position`` = rows of a group are ordered by
            (time, stored order) and a row sees those before it, equal times included (``log`` only).
        max_length: only the most recent events are kept.
        path, pattern, hive, sha256, format: of the events' files.
        group, time: their columns, if they are not the recipe's.
        prior: events from before the log begins.
        separator: for ``list`` columns written as text.
        newest_first: for ``list``: the lists are stored newest first.
        sequences: the attributes of an event.
        context: what an event is to the row: how far back, how long ago.
    """

    behaviour: str
    source: Literal["log", "events", "list"] = "log"
    where: str | None = None
    by: Literal["time", "position"] = "time"
    max_length: int | None = Field(default=None, ge=1)
    group: str | None = None
    time: str | None = None
    prior: PriorHistory | None = None
    separator: str | None = None
    newest_first: bool = False
    sequences: tuple[SequenceRecipe, ...] = Field(min_length=1)
    context: tuple[ContextRecipe, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> HistoryRecipe:
        if (self.source == "events") != bool(self.place):
            raise ValueError(f"behaviour {self.behaviour!r}: source = 'events' and path (or pattern) go together")
        if self.by == "position" and self.source != "log":
            raise ValueError(f"behaviour {self.behaviour!r}: by = 'position' is for source = 'log'")
        if self.source == "list" and (self.where or self.prior):
            raise ValueError(f"behaviour {self.behaviour!r}: where and prior are not for source = 'list'")
        if self.source == "list" and any(c.of == "time_gap" for c in self.context):
            raise ValueError(f"behaviour {self.behaviour!r}: lists have no times, so no context of time_gap")
        return self


def _float_where_exact(value: object) -> object:
    """Whole numbers as floats, as they always were, but those that no float holds (nanoseconds)."""
    return float(value) if type(value) is int and float(value) == value else value


Border = Annotated[float | int | datetime | date | str, BeforeValidator(_float_where_exact)]


class SplitRecipe(Strict):
    """How rows are split.

    Attributes:
        by: ``files`` (each file names its split), ``random``, ``group`` (whole groups at random), ``time``,
            ``row_order`` or ``last_per_group``.
        seed: for ``random`` and ``group``.
        valid, test: for ``random``, ``row_order`` and ``time``: the share of rows (below 1) or their number; the last
            ones in row or time order. For ``last_per_group``: how many of each group's last rows; the validation rows
            come before the test rows, and a group always keeps its first row for training. For ``group``: the share
            of the groups, or how many of them.
        column: for ``time``: the column that rows go by if it is not the recipe's ``time``; for ``group``: the column
            whose values stay together if it is not the recipe's ``group``.
        valid_from, test_from: for ``time``: rows from this time on: a number, or a date or time (of TOML, or as ISO
            8601 text; without a zone it is UTC where the column has zones). Other text compares as text.
    """

    by: Literal["files", "random", "group", "time", "row_order", "last_per_group"]
    seed: int = 0
    valid: float | None = Field(default=None, gt=0)
    test: float | None = Field(default=None, gt=0)
    column: str | None = None
    valid_from: Border | None = None
    test_from: Border | None = None

    @model_validator(mode="after")
    def _check(self) -> SplitRecipe:
        sized = self.valid is not None and self.test is not None
        dated = self.valid_from is not None and self.test_from is not None
        if self.by in ("random", "group", "row_order", "last_per_group") and not sized:
            raise ValueError(f"split by {self.by!r} needs valid and test")
        if self.by == "time" and sized == dated:
            raise ValueError("split by 'time' needs either valid and test, or valid_from and test_from")
        return self


class NegativeSampling(Strict):
    """Negatives drawn for every positive row: items of the catalogue that the group has in no split.

    Attributes:
        ratio: negatives per positive.
        item: the item column.
        item_columns: columns that belong to the item and change with it; all others are the positive row's, and so is
            the history. Columns of side tables keyed by the item need not be named
            (:mod:`rectab.data.item_columns`).
        draw: ``uniform``, or ``popularity``: in proportion to the positive training rows of an item.
        redraw: ``epoch`` = training gets other negatives in every epoch; ``never`` = those of the first draw. Those of
            validation and test always stay.
        seed: of the first draw.
    """

    ratio: int = Field(default=1, ge=1)
    item: str
    item_columns: tuple[str, ...] = ()
    draw: Literal["uniform", "popularity"] = "uniform"
    redraw: Literal["epoch", "never"] = "epoch"
    seed: int = 0

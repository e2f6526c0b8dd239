"""Entries of a sweep file: data sets, models, methods, and how settings are tuned."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

import rectab.tables  # noqa: F401  registers the methods
from rectab.ops.formats import get_format
from rectab.tables.budget import is_no_budget, parse_budget
from rectab.tables.registry import get_method
from rectab.training.run import model_config

__all__ = ["DatasetEntry", "Entry", "MethodEntry", "ModelEntry", "TuningEntry", "check_budgets"]

_DATA_VARIABLE = "${RECTAB_DATA}"
_DEFAULT_DATA = "../shared/data"


class Entry(BaseModel):
    """What a sweep file says of one thing; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetEntry(Entry):
    """A prepared folder, or a recipe that the sweep prepares first.

    Attributes:
        name: how the report calls it; the data set's own name if None.
        path: a folder written by ``rectab prepare``; this or ``recipe``.
        recipe: a recipe (TOML); it is prepared into the sweep's folder, once.
        raw: folder of the raw files of ``recipe``; None for a synthetic recipe.
        changes: keys that take the place of the recipe's (``{ negatives = { redraw = "never" } }``); a table changes
            the keys it has and leaves the others.
        embedding_dim: overrides the sweep's.
        training: overrides single keys of the sweep's ``[training]``.
    """

    name: str | None = None
    path: str | None = None
    recipe: str | None = None
    raw: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    embedding_dim: Annotated[int, Field(ge=1)] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    _raw_text: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> DatasetEntry:
        if (self.path is None) == (self.recipe is None):
            raise ValueError("give either path (a prepared folder) or recipe (to prepare first)")
        if self.recipe is None and (self.raw is not None or self.changes):
            raise ValueError("raw and changes belong to a recipe; a prepared folder (path) needs none")
        return self

    def absolute(self, folder: Path) -> DatasetEntry:
        """The entry with its paths made absolute, relative ones from ``folder``."""
        paths = {key: _absolute(getattr(self, key), folder) for key in ("path", "recipe", "raw")}
        entry = self.model_copy(update=paths)
        entry._raw_text = self.raw
        return entry

    def describe_raw(self) -> str:
        """How ``raw`` was written and what that stands for, for errors."""
        if self._raw_text is None or _DATA_VARIABLE not in self._raw_text:
            return f"the setting is {self._raw_text or self.raw!r}"
        given = os.environ.get("RECTAB_DATA")
        now = f"not set and taken to be {_DEFAULT_DATA}" if given is None else f"{given!r}"
        return (
            f"the setting is {self._raw_text!r}, and RECTAB_DATA is {now}; set it to the folder of your raw data: "
            "export RECTAB_DATA=/path/to/data"
        )


class ModelEntry(Entry):
    """A model: its interaction, its history tower and their options.

    Attributes:
        model: the interaction, such as ``deepfm`` or ``dcnv2``.
        history: the history tower: ``none``, ``mean`` or ``din``.
        name: how the report calls it; made of the two if None.
        options: of the interaction; under the key ``history`` a table of the tower's options.
        training: overrides single keys of the sweep's and the data set's ``training`` (to compare regularisations).
        methods: names of those of the sweep's methods to run under this model; all if None.
    """

    model: str
    history: str = "none"
    name: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    methods: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        return self.name or (self.model if self.history == "none" else f"{self.model} + {self.history} history")

    @model_validator(mode="after")
    def _buildable(self) -> ModelEntry:
        model_config(self.model, self.history, self.options)
        return self


class MethodEntry(Entry):
    """An embedding table method.

    Attributes:
        method: a registered method, see ``rectab tables``.
        name: how the report calls it; the method if None. Two entries of one method need different names.
        options: of the method, such as ``num_chunks``.
        rows: how rows are held: ``fp32``, ``bf16``, ``fp16``, ``int8``, ...
        budgets: instead of the sweep's; ``"none"`` is a run without a budget. A method of one size (``full``) runs
            once without a budget unless it has budgets here.
    """

    method: str
    name: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    rows: str = "fp32"
    budgets: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        return self.name or (self.method if self.rows == "fp32" else f"{self.method} {self.rows}")

    @field_validator("method")
    @classmethod
    def _registered(cls, method: str) -> str:
        return get_method(method).name

    @field_validator("rows")
    @classmethod
    def _trains(cls, rows: str) -> str:
        if not get_format(rows).trains:
            raise ValueError(f"rows held as {rows} cannot be trained")
        return rows

    @field_validator("budgets")
    @classmethod
    def _valid_budgets(cls, budgets: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if budgets is None else check_budgets(budgets)

    @model_validator(mode="after")
    def _typed_options(self) -> MethodEntry:
        get_method(self.method).read_options(self.options)
        return self


class TuningEntry(Entry):
    """The same trials for every method, chosen by validation AUC on the first seed.

    Attributes:
        grid: training setting -> values to try; the trials are all combinations.
        budget: tune at this one budget and use what it chose at all of them (fewer runs); None tunes at every budget.
    """

    grid: dict[str, list[Any]]
    budget: str | None = None

    @field_validator("grid")
    @classmethod
    def _not_empty(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if not grid or not all(grid.values()):
            raise ValueError("give at least one training setting, each with at least one value")
        return grid

    def trials(self) -> list[dict[str, Any]]:
        """Every combination, in the order of the file."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def _absolute(text: str | None, folder: Path) -> str | None:
    if text is None:
        return None
    data = Path(os.environ.get("RECTAB_DATA", _DEFAULT_DATA)).resolve()
    return str((folder / Path(text.replace(_DATA_VARIABLE, str(data))).expanduser()).resolve())


def check_budgets(budgets: tuple[str, ...]) -> tuple[str, ...]:
    """Budgets as they are compared; ValueError for one that is not understood."""
    for budget in budgets:
        if not is_no_budget(budget):
            parse_budget(budget, full_bytes=10**15)
    return tuple("none" if is_no_budget(budget) else budget.replace(" ", "") for budget in budgets)

"""What a sweep file may say: data sets, models, methods, budgets, seeds, training settings and tuning.

A sweep is a TOML file. Unknown keys are errors that name the key. Paths in it are relative to the file itself, except
that ``${RECTAB_DATA}`` stands for the folder of raw data (default ``../shared/data`` of the working directory).
"""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import rectab.tables  # noqa: F401  registers the methods
from rectab.key_errors import explain
from rectab.ops.formats import get_format
from rectab.tables.budget import is_no_budget, parse_budget
from rectab.tables.registry import get_method
from rectab.training.config import TrainConfig
from rectab.training.run import model_config

__all__ = [
    "DatasetEntry",
    "MethodEntry",
    "ModelEntry",
    "SweepConfig",
    "SweepConfigError",
    "TuningEntry",
    "load_config",
]

_DATA_VARIABLE = "${RECTAB_DATA}"
_DEFAULT_DATA = "../shared/data"


class SweepConfigError(ValueError):
    """A sweep file is not valid: unknown key, missing key, or settings that contradict each other."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetEntry(_Entry):
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


class ModelEntry(_Entry):
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


class MethodEntry(_Entry):
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
        return None if budgets is None else _check_budgets(budgets)

    @model_validator(mode="after")
    def _typed_options(self) -> MethodEntry:
        get_method(self.method).read_options(self.options)
        return self


class TuningEntry(_Entry):
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


class SweepConfig(_Entry):
    """A whole sweep: every data set x model x method x budget x seed is one run.

    Attributes:
        title: heading of the report.
        budgets: shares of the full table ("10%") or bytes ("1MiB"), of the serving form, all vocabularies together.
        train_budgets: bytes that training the table may take, as ``budgets``. What needs more than the largest is not
            trained; the report says which table is best within each.
        count_ids: budgets are for the table and the map from raw values to ids together.
        seeds: one run each; seed decides initial weights and batch order, equal for all methods.
        embedding_dim: width of the vectors.
        jobs: runs at a time, each in its own process.
        training: settings of the trainer, for all runs.
        tuning: see :class:`TuningEntry`; None trains every method with ``training``.
    """

    title: str | None = None
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    budgets: tuple[str, ...] = Field(min_length=1)
    train_budgets: tuple[str, ...] = ()
    count_ids: bool = False
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    embedding_dim: Annotated[int, Field(ge=1)] = 16
    jobs: Annotated[int, Field(ge=1)] = 1
    training: dict[str, Any] = Field(default_factory=dict)
    tuning: TuningEntry | None = None

    @field_validator("budgets", "train_budgets")
    @classmethod
    def _valid_budgets(cls, budgets: tuple[str, ...]) -> tuple[str, ...]:
        return _check_budgets(budgets)

    def train_limits(self, full_bytes: int) -> dict[str, int]:
        """Bytes of every training budget, smallest first, by how it is written."""
        limits = {text: parse_budget(text, full_bytes) for text in self.train_budgets}
        return dict(sorted(limits.items(), key=lambda item: item[1]))

    @model_validator(mode="after")
    def _distinct(self) -> SweepConfig:
        _check_distinct("models", [entry.label for entry in self.models])
        _check_distinct("methods", [entry.label for entry in self.methods])
        _check_distinct("seeds", [str(seed) for seed in self.seeds])
        _check_distinct("budgets", list(self.budgets))
        _check_distinct("train_budgets", list(self.train_budgets))
        if "none" in self.train_budgets:
            raise ValueError("train_budgets are sizes; leave the key out to set no limit")
        _check_distinct("datasets", [entry.name for entry in self.datasets if entry.name])
        _check_training("training", self.training)
        for position, entry in enumerate(self.datasets):
            _check_training(f"datasets[{position}].training", {**self.training, **entry.training})
        labels = [entry.label for entry in self.methods]
        for position, model in enumerate(self.models):
            for name in model.methods or ():
                if name not in labels:
                    raise ValueError(f"models[{position}].methods: no method {name!r} here; there are {labels}")
            for entry in self.datasets:
                settings = {**self.training, **entry.training, **model.training}
                _check_training(f"models[{position}].training", settings)
        for settings in self.tuning.trials() if self.tuning else []:
            _check_training("tuning.grid", {**self.training, **settings})
        return self


def load_config(path: Path | str) -> SweepConfig:
    """Read a sweep file.

    Raises:
        SweepConfigError: if it is missing, not TOML, or says something it may not; the message names file and key.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        config = SweepConfig.model_validate(data)
    except ValidationError as error:
        raise SweepConfigError(f"{path}: {explain(error, SweepConfig)}") from None
    folder = path.resolve().parent
    return config.model_copy(update={"datasets": tuple(entry.absolute(folder) for entry in config.datasets)})


def _absolute(text: str | None, folder: Path) -> str | None:
    if text is None:
        return None
    data = Path(os.environ.get("RECTAB_DATA", _DEFAULT_DATA)).resolve()
    return str((folder / Path(text.replace(_DATA_VARIABLE, str(data))).expanduser()).resolve())


def _check_budgets(budgets: tuple[str, ...]) -> tuple[str, ...]:
    for budget in budgets:
        if not is_no_budget(budget):
            parse_budget(budget, full_bytes=10**15)
    return tuple("none" if is_no_budget(budget) else budget.replace(" ", "") for budget in budgets)


def _check_training(place: str, settings: dict[str, Any]) -> None:
    """Refuse a setting that the trainer does not have, before anything runs."""
    if "seed" in settings:
        raise ValueError(f"{place}.seed: seeds are given by the key seeds of the sweep")
    try:
        config = TrainConfig.from_json(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
    if config.objective != "logloss":
        raise ValueError(f"{place}.objective: a sweep measures AUC, so it trains for clicks (logloss)")


def _check_distinct(key: str, labels: list[str]) -> None:
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        hint = "; give each its own name" if key in ("models", "methods", "datasets") else ""
        raise ValueError(f"{key}: repeated {', '.join(repeated)}{hint}")

"""What a sweep file may say: its entries (:mod:`rectab.sweep.entries`), budgets, seeds and training settings.

A sweep is a TOML file. Unknown keys are errors that name the key. Paths in it are relative to the file itself, except
that ``${RECTAB_DATA}`` stands for the folder of raw data (default ``../shared/data`` of the working directory).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rectab.key_errors import explain
from rectab.sweep.entries import DatasetEntry, Entry, MethodEntry, ModelEntry, TuningEntry, check_budgets
from rectab.tables.budget import parse_budget
from rectab.training.config import TrainConfig

__all__ = ["SweepConfig", "SweepConfigError", "load_config"]


class SweepConfigError(ValueError):
    """A sweep file is not valid: unknown key, missing key, or settings that contradict each other."""


class SweepConfig(Entry):
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
        return check_budgets(budgets)

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


def _check_training(place: str, settings: dict[str, Any]) -> None:
    """Refuse a setting that the trainer does not have, before anything runs."""
    if "seed" in settings:
        raise ValueError(f"{place}.seed: seeds are given by the key seeds of the sweep")
    try:
        config = TrainConfig.from_json(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
    if config.objective == "mse":
        raise ValueError(
            f"{place}.objective: a sweep measures AUC, so it trains for clicks (logloss) or rankings (topk)"
        )


def _check_distinct(key: str, labels: list[str]) -> None:
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        hint = "; give each its own name" if key in ("models", "methods", "datasets") else ""
        raise ValueError(f"{key}: repeated {', '.join(repeated)}{hint}")

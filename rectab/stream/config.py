"""What a stream file may say: the stream, the arms that are compared on it, budgets, seeds, model, training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rectab.key_errors import explain
from rectab.plain import read_plain
from rectab.stream.synthetic import SyntheticStream
from rectab.sweep.entries import Entry, ModelEntry, check_budgets
from rectab.tables.registry import get_method
from rectab.training.config import TrainConfig

__all__ = ["ArmEntry", "PreparedEntry", "StreamConfig", "StreamConfigError", "StreamSpec", "expand", "load_stream"]


class StreamConfigError(ValueError):
    """A stream file is not valid."""


class ArmEntry(Entry):
    """A table, and where its ids come from.

    Attributes:
        ids: ``open`` the method takes any id; ``growing`` a row for every id of the whole stream, without a budget;
            ``fixed`` a vocabulary fitted to the first period; ``refitted`` one fitted before every period, whose ids
            keep their rows and their state as long as they stay.
        method: of an ``open`` arm; the others have the full table.
        name: how the report calls it.
        options: of the method.
        rows: how rows are held.
        window: periods that ``refitted`` counts ids over.
        training: overrides single keys of the file's ``[training]``.
    """

    ids: Literal["open", "growing", "fixed", "refitted"] = "open"
    method: str = "full"
    name: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    rows: str = "fp32"
    window: Annotated[int, Field(ge=1)] = 2
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name or (self.method if self.ids == "open" else self.ids)

    @model_validator(mode="after")
    def _goes_together(self) -> ArmEntry:
        record = get_method(self.method)
        if self.ids == "open" and not record.serves_any_id:
            raise ValueError(f"{self.method} cannot take any id; give ids = 'growing', 'fixed' or 'refitted'")
        if self.ids != "open" and (self.method != "full" or self.options):
            raise ValueError(f"ids = {self.ids!r} is of the full table; leave method and options out")
        record.read_options(self.options)
        return self


class PreparedEntry(Entry):
    """A prepared data set, whose rows are in the order of time and whose columns are hashed.

    Attributes:
        path: the folder.
        periods: parts of equally many rows.
    """

    path: str
    periods: Annotated[int, Field(ge=2)] = 14


class StreamConfig(Entry):
    """A whole comparison: every arm x budget x seed is one run over the stream.

    Attributes:
        title: heading of the report.
        synthetic: settings of :class:`rectab.stream.synthetic.SyntheticStream`; this or ``prepared``.
        prepared: rows of a prepared data set.
        arms: what is compared.
        budgets: shares of the full table of every id of the stream, or bytes; of table and id map together.
        seeds: one run each; of weights and, where the stream is synthetic, of the stream.
        embedding_dim: width of the vectors.
        slice_by: features whose ids make slices: seen often, returning, new, never seen.
        often: times that an id was seen to be seen often.
        away: periods for which an id was not seen to be returning.
        passes: over the rows of every period.
        retrain: 0 goes on with the same weights; else every period starts anew and trains on so many periods.
        model: the model, the same for all.
        training: settings of the optimizers and the batch size, for all arms.
    """

    title: str | None = None
    synthetic: dict[str, Any] | None = None
    prepared: PreparedEntry | None = None
    arms: tuple[ArmEntry, ...] = Field(min_length=1)
    budgets: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    embedding_dim: Annotated[int, Field(ge=1)] = 16
    slice_by: tuple[str, ...] = ()
    often: Annotated[int, Field(ge=1)] = 20
    away: Annotated[int, Field(ge=1)] = 3
    passes: Annotated[int, Field(ge=1)] = 1
    retrain: Annotated[int, Field(ge=0)] = 0
    model: ModelEntry
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> StreamConfig:
        if (self.synthetic is None) == (self.prepared is None):
            raise ValueError("give one of the tables [synthetic] and [prepared]")
        check_budgets(self.budgets)
        labels = [arm.label for arm in self.arms]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"arms: repeated {', '.join(repeated)}; give each its own name")
        for arm in self.arms:
            TrainConfig.from_json({**self.training, **arm.training}, "training")
        if self.synthetic is not None:
            read_plain(SyntheticStream, self.synthetic, "synthetic")
        return self


@dataclass(frozen=True)
class StreamSpec:
    """One run: an arm at a budget under a seed. ``budget`` is None for a growing table."""

    arm: ArmEntry
    budget: str | None
    seed: int

    def describe(self) -> str:
        """One short line for progress."""
        return f"{self.arm.label}{f' at {self.budget}' if self.budget else ''} · seed {self.seed}"


def expand(config: StreamConfig) -> list[StreamSpec]:
    """Every run, seeds outermost: after the first of them there is something of everything."""
    return [
        StreamSpec(arm, budget, seed)
        for seed in config.seeds
        for arm in config.arms
        for budget in ((None,) if arm.ids == "growing" else config.budgets)
    ]


def load_stream(path: Path | str) -> StreamConfig:
    """Read a stream file.

    Raises:
        StreamConfigError: it is missing, not TOML, or says something it may not; the message names file and key.
    """
    path = Path(path)
    try:
        config = StreamConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StreamConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StreamConfigError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise StreamConfigError(f"{path}: {explain(error, StreamConfig)}") from None
    if config.prepared is None:
        return config
    folder = (path.resolve().parent / config.prepared.path).resolve()
    return config.model_copy(update={"prepared": config.prepared.model_copy(update={"path": str(folder)})})

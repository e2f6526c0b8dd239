"""From a sweep's configuration to its runs: what each one is, and the hash that names its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rectab.schema import Vocabulary
from rectab.sweep.config import SweepConfig
from rectab.sweep.entries import DatasetEntry, MethodEntry, ModelEntry
from rectab.sweep.store import FORMAT_VERSION, digest
from rectab.tables.budget import full_table_bytes
from rectab.tables.registry import get_method

__all__ = ["CellKey", "DatasetInfo", "RunSpec", "expand_runs", "expand_trials"]

Settings = dict[str, Any]
CellKey = tuple[str, str, str, str | None]


@dataclass(frozen=True)
class DatasetInfo:
    """What a sweep keeps of a prepared data set, so that the report needs no data.

    Attributes:
        name: how the report calls it.
        path: the prepared folder.
        fingerprint: of its contents.
        vocabularies: name -> num_embeddings.
        best_auc: test AUC of the true click probability; None where it is not known (real data).
        rows: rows per split.
        positive_rate: share of positive labels per split.
        slice_by: the feature whose training counts define head, torso, tail and unseen; None if there is none.
    """

    name: str
    path: str
    fingerprint: str
    vocabularies: dict[str, int]
    best_auc: float | None
    rows: dict[str, int]
    positive_rate: dict[str, float]
    slice_by: str | None = None

    def full_bytes(self, embedding_dim: int) -> int:
        """Bytes of the fp32 full table of the same vocabularies: the denominator of every ratio."""
        return full_table_bytes([Vocabulary(name, size) for name, size in self.vocabularies.items()], embedding_dim)


@dataclass(frozen=True)
class RunSpec:
    """One run, as plain data.

    Attributes:
        role: ``run`` is reported; ``trial`` only chooses settings, on the validation split.
        dataset: name of the data set in the report.
        dataset_path: the prepared folder.
        fingerprint: of the data set.
        model_label, method_label: how the report calls them.
        model, history, model_options: the model.
        method, method_options, rows: the table.
        budget: such as "10%" or "1MiB"; None runs without one.
        seed: of weights and batch order.
        embedding_dim: width of the vectors.
        training: settings of the trainer.
        train_memory: most bytes that training the table may take; None sets no limit. It changes no run, only whether
            there is one.
        count_ids: the budget is for the table and the map from raw values to ids together.
        trained: folder of finished runs that this one may be, or be encoded of, see :mod:`rectab.training.shared`; None
            if it shares its training with no other.
        device: where it is trained. What was trained on another device is not trained again.
    """

    role: Literal["run", "trial"]
    dataset: str
    dataset_path: str
    fingerprint: str
    model_label: str
    model: str
    history: str
    model_options: Settings
    method_label: str
    method: str
    method_options: Settings
    budget: str | None
    seed: int
    embedding_dim: int
    training: Settings = field(default_factory=dict)
    rows: str = "fp32"
    train_memory: int | None = None
    count_ids: bool = False
    trained: str | None = None
    device: str = "cpu"

    @property
    def hash(self) -> str:
        """Names the run's file: equal for runs that would compute the same thing, whatever they are called.

        Raises:
            ValueError: there is no such method.
        """
        content = asdict(self)
        labels = ("dataset", "dataset_path", "model_label", "method_label", "train_memory", "trained", "device")
        for label in labels:
            del content[label]
        if not self.count_ids:  # left out, so that runs from before there was a choice keep their files
            del content["count_ids"]
        if self.rows == "fp32":  # left out, so that runs from before there were formats keep their files
            del content["rows"]
        revision = get_method(self.method).revision
        if revision != 1:  # likewise
            content["revision"] = revision
        return digest({"format": FORMAT_VERSION, **content})

    @property
    def cell(self) -> CellKey:
        """(data set, model, method, budget): the runs that differ only by seed."""
        return (self.dataset, self.model_label, self.method_label, self.budget)

    def describe(self, tuned: Sequence[str] = ()) -> str:
        """One short line for progress and errors; a trial's says what it sets of the ``tuned`` settings."""
        budget = f" at {self.budget}" if self.budget else ""
        tried = ", ".join(f"{key} = {self.training[key]}" for key in tuned if key in self.training)
        trial = f" (tuning trial{': ' if tried else ''}{tried})" if self.role == "trial" else ""
        return f"{self.dataset} · {self.model_label} · {self.method_label}{budget} · seed {self.seed}{trial}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        return cls(**data)


def _cells(config: SweepConfig, datasets: list[DatasetInfo]) -> Iterator[RunSpec]:
    """One spec per data set, model, method and budget, at the first seed and with the sweep's own settings."""
    for entry, info in zip(config.datasets, datasets, strict=True):
        for model in config.models:
            for method in config.methods:
                if model.methods is not None and method.label not in model.methods:
                    continue
                for budget in _budgets(config, method):
                    yield _spec(config, entry, info, model, method, budget)


def _budgets(config: SweepConfig, method: MethodEntry) -> tuple[str, ...]:
    if method.budgets is not None:
        return method.budgets
    return ("none",) if get_method(method.method).fills == "one" else config.budgets


def _spec(
    config: SweepConfig, entry: DatasetEntry, info: DatasetInfo, model: ModelEntry, method: MethodEntry, budget: str
) -> RunSpec:
    embedding_dim = entry.embedding_dim or config.embedding_dim
    limits = list(config.train_limits(info.full_bytes(embedding_dim)).values())
    return RunSpec(
        role="run",
        dataset=info.name,
        dataset_path=info.path,
        fingerprint=info.fingerprint,
        model_label=model.label,
        model=model.model,
        history=model.history,
        model_options=model.options,
        method_label=method.label,
        method=method.method,
        method_options=method.options,
        budget=None if budget == "none" else budget,
        seed=config.seeds[0],
        embedding_dim=embedding_dim,
        training={**config.training, **entry.training, **model.training},
        rows=method.rows,
        count_ids=config.count_ids and budget != "none",
        train_memory=limits[-1] if limits else None,
    )


def expand_trials(config: SweepConfig, datasets: list[DatasetInfo]) -> dict[CellKey, list[RunSpec]]:
    """Tuning trials by the cell they are for; the same number for each. Empty without ``[tuning]``.

    With ``tuning.budget`` a method's trials run at that budget only, and serve all its budgets.
    """
    if config.tuning is None:
        return {}
    trials: dict[CellKey, list[RunSpec]] = {}
    for spec in _cells(config, datasets):
        budget = spec.budget if spec.budget is None or config.tuning.budget is None else config.tuning.budget
        trials[spec.cell] = [
            replace(spec, role="trial", budget=budget, training={**spec.training, **settings})
            for settings in config.tuning.trials()
        ]
    return trials


def expand_runs(
    config: SweepConfig,
    datasets: list[DatasetInfo],
    chosen: Mapping[CellKey, Settings] | None = None,
) -> list[RunSpec]:
    """Every reported run, in the order of the file, seeds innermost.

    Args:
        config: the sweep.
        datasets: one per entry of ``config.datasets``.
        chosen: what tuning chose, by cell; a cell that is not in it keeps the sweep's settings.
    """
    chosen = chosen or {}
    return [
        replace(spec, seed=seed, training={**spec.training, **chosen.get(spec.cell, {})})
        for spec in _cells(config, datasets)
        for seed in config.seeds
    ]

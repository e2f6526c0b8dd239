"""Settings chosen by validation: every trial is one training, proposed by optuna's sampler from those before it.

The test split is not read. A trial is a function of the seed and of the trials before it, so that a search which was
killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rectab.atomic_file import write_atomic
from rectab.data.dataset import PreparedDataset
from rectab.extras import need_extra
from rectab.models.registry import get_interaction
from rectab.plain import differences, parse_json, read_plain
from rectab.training.config import TrainConfig, monitor_value
from rectab.training.defaults import Settings, flat, settings_of, written
from rectab.training.errors import TrainingError
from rectab.training.result import RunResult
from rectab.training.run import train_once

__all__ = ["TRIALS_FILE", "Trial", "Tuned", "tune"]

TRIALS_FILE = "trials.json"
_FORMAT = 1
_NONE = 1e-6  # an L2 that is none: the space is logarithmic
_RANDOM_TRIALS = 8


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        number: from 0; the first one has the settings of the rule (:mod:`rectab.training.defaults`).
        values: of the space, by name.
        settings: what they stand for, as ``--set`` takes them.
        score: the monitored value on validation, higher is better; None if training diverged.
        valid: metrics on validation.
        seconds: of the whole trial.
        error: why there is no score.
    """

    number: int
    values: dict[str, Any]
    settings: dict[str, Any]
    score: float | None
    valid: dict[str, float]
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Tuned:
    """What a search found: its trials in order."""

    asked: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The first trial of the highest score; None if none has one."""
        scored = [trial for trial in self.trials if trial.score is not None]
        return max(scored, key=lambda trial: trial.score or 0.0, default=None)

    def command(self, data: str) -> str:
        """What trains with the best settings. Raises ValueError if no trial has a score."""
        asked, best = self.asked, self.best
        if best is None:
            raise ValueError("no trial could be trained")
        told = f"rectab train {data} --table {asked['method']} --model {asked['model']} --history {asked['history']}"
        told += f" --dim {asked['embedding_dim']} --seed {asked['seed']}"
        told += f" --budget {asked['budget']}" if asked["budget"] else ""
        return told + "".join(f" --set {name}={written(value)}" for name, value in best.settings.items())

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {**asdict(self), "format": _FORMAT, "best": None if best is None else best.number}


def tune(
    dataset: PreparedDataset,
    out: Path,
    *,
    trials: int = 30,
    minutes: float | None = None,
    seed: int = 0,
    method: str = "full",
    budget: str | None = None,
    model: str = "deepfm",
    history: str | None = None,
    embedding_dim: int = 16,
    training: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    said: Callable[[Trial, Tuned], None] = lambda trial, tuned: None,
) -> Tuned:
    """Search for settings; goes on where ``out`` holds a search that was stopped.

    Args:
        dataset: the data; its test split is not read.
        out: gets ``trials.json``, and the checkpoints of the trial that is being trained.
        trials: how many, those that ``out`` holds among them.
        minutes: no trial begins later than this after the start; None sets no limit.
        seed: of the sampler and of every training.
        method, budget, model, history, embedding_dim: what is trained, as for :func:`rectab.training.train_once`;
            ``history`` None asks the rule.
        training, model_options: settings that are given, and not searched.
        device: where it is trained.
        said: called after every trial.

    Raises:
        ValueError: ``out`` holds the search for something else, or ``trials`` is below 1.
        ImportError: optuna is not installed.
    """
    need_extra("rectab tune", "tune", "optuna")
    if trials < 1:
        raise ValueError(f"--trials must be at least 1, got {trials}")
    base = settings_of(dataset, model, history, training, model_options)
    given = {**_named("train", training or {}), **_named("model", model_options or {})}
    what: dict[str, Any] = {"method": method, "budget": budget, "model": model, "history": base.history}
    what |= {"embedding_dim": embedding_dim, "seed": seed, "given": given, "data": dataset.fingerprint()}
    tuned = _opened(out, what)
    space, begin = _space(base, model, given), time.perf_counter()
    while len(tuned.trials) < trials and (minutes is None or time.perf_counter() - begin < 60 * minutes):
        number = len(tuned.trials)
        values = _proposed(space, tuned.trials, seed)
        settings = {name: _meant(name, value) for name, value in values.items()}
        config = TrainConfig.from_json({**base.training, **_of("train", settings), "seed": seed}, "train")
        train = partial(
            train_once,
            dataset,
            method=method,
            budget=budget,
            model=model,
            history=base.history,
            model_options={**base.model, **_of("model", settings)},
            embedding_dim=embedding_dim,
            train_config=config,
            out_dir=out / f"trial-{number:02}",
            read_test=False,
            progress="off",
            device=device,
        )
        trial = _trained(Trial(number, values, {**_settings(base), **settings}, None, {}, 0.0), config, train)
        tuned.trials.append(trial)
        write_atomic(out / TRIALS_FILE, json.dumps(tuned.to_json(), indent=1) + "\n")
        shutil.rmtree(out / f"trial-{number:02}", ignore_errors=True)
        said(trial, tuned)
    return tuned


def _trained(trial: Trial, config: TrainConfig, train: Callable[[], RunResult]) -> Trial:
    """The trial with what came of it."""
    begin = time.perf_counter()
    try:
        valid = train().valid
    except TrainingError as diverged:
        return replace(trial, error=str(diverged), seconds=time.perf_counter() - begin)
    score = monitor_value(config.monitor, valid)
    return replace(trial, score=score, valid=valid, seconds=time.perf_counter() - begin)


def _opened(out: Path, asked: dict[str, Any]) -> Tuned:
    """The search that ``out`` holds, or a new one."""
    path = out / TRIALS_FILE
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return Tuned(asked)
    try:
        kept = parse_json(path.read_text(encoding="utf-8"))
        tuned = Tuned(kept["asked"], [read_plain(Trial, trial) for trial in kept["trials"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it to start the search over") from error
    if told := differences(tuned.asked, asked):
        raise ValueError(f"{path}: holds another search ({told}); give another --out, or delete it")
    return tuned


def _space(base: Settings, model: str, given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (where it may lie, the value of the rule). What was given is not in it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {f.name for f in fields(get_interaction(model).config)}
    start = {**{f.name: f.default for f in fields(TrainConfig)}, **base.training}
    of_model = {f.name: f.default for f in fields(get_interaction(model).config)} | base.model
    space: dict[str, tuple[Any, Any]] = {
        "train.batch_size": (IntDistribution(8, 13), start["batch_size"].bit_length() - 1),
        "train.lr": (FloatDistribution(1e-4, 1e-2, log=True), start["lr"]),
        "train.embedding_l2": (FloatDistribution(_NONE, 1.0, log=True), max(start["embedding_l2"], _NONE)),
        "train.embedding_l2_mode": (CategoricalDistribution(("full", "minibatch")), start["embedding_l2_mode"]),
    }
    if start.get("gradient", "row") != "row":
        del space["train.embedding_l2"], space["train.embedding_l2_mode"]
    if "batch_norm" in known:
        space["model.batch_norm"] = (CategoricalDistribution((False, True)), of_model["batch_norm"])
    if "dropout" in known:
        space["model.dropout"] = (FloatDistribution(0.0, 0.5, step=0.1), of_model["dropout"])
    return {name: held for name, held in space.items() if name not in given}


def _proposed(space: Mapping[str, tuple[Any, Any]], before: list[Trial], seed: int) -> dict[str, Any]:
    """Values of the next trial: those of the rule first, then what the sampler makes of the trials so far."""
    import optuna

    if not before:
        return {name: start for name, (_, start) in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A sampler of its own for every trial, so that it is the same after a search was taken up again.
    sampler = optuna.samplers.TPESampler(seed=(seed << 16) + len(before), n_startup_trials=_RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: distribution for name, (distribution, _) in space.items()}
    for trial in before:
        state = optuna.trial.TrialState.COMPLETE if trial.score is not None else optuna.trial.TrialState.FAIL
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=trial.score, params=dict(trial.values), distributions=dict(distributions)
            )
        )
    return dict(study.ask(distributions).params)


def _meant(name: str, value: Any) -> Any:
    """What a value of the space stands for."""
    if name == "train.batch_size":
        return 2**value
    return 0.0 if name == "train.embedding_l2" and value <= _NONE else value


def _settings(base: Settings) -> dict[str, Any]:
    return {**flat("train", base.training), **flat("model", base.model)}


def _named(place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{place}.{name}": value for name, value in settings.items()}


def _of(place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{place}."
    return {name.removeprefix(start): value for name, value in settings.items() if name.startswith(start)}

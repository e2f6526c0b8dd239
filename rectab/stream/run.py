"""One run of a stream: train on a period, be measured on the next, go on; resumed where it was stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rectab.metrics import auc, logloss
from rectab.stream.arms import Arm, make_arm
from rectab.stream.config import StreamConfig, StreamSpec
from rectab.stream.learner import Learner
from rectab.stream.slices import Seen, measure
from rectab.stream.source import Source, Universe
from rectab.stream.synthetic import Period
from rectab.training.config import TrainConfig
from rectab.training.run import model_config
from rectab.training.state import load_state, save_state

__all__ = ["run_stream"]

_STATE = "state.safetensors"


@dataclass
class _Run:
    """A run between two periods.

    Attributes:
        told: what has been measured so far, a period each.
    """

    spec: StreamSpec
    config: StreamConfig
    source: Source
    universe: Universe
    arm: Arm
    seen: Seen
    told: list[dict[str, Any]]
    learner: Learner | None = None

    def new_learner(self) -> Learner:
        config, arm = self.config, self.spec.arm
        settings = {**config.training, **arm.training, "seed": self.spec.seed}
        entry = config.model
        told = model_config(entry.model, entry.history, entry.options)
        return Learner(self.arm.schema, self.arm.table, told, TrainConfig.from_json(settings))

    def learn(self, number: int, period: Period) -> None:
        """Train on a period, or anew on the last ones."""
        if self.config.retrain:
            first = max(0, number - self.config.retrain + 1)
            self.arm, self.learner = make_arm(self.spec, self.config, self.source, self.universe), None
            for each in range(first, number):
                self._pass(self.source.period(each))
        self._pass(period)
        self.seen.add(period.ids, number)

    def _pass(self, period: Period) -> None:
        self.arm.before_period(period.ids, self.seen, self.learner)
        self.learner = self.learner or self.new_learner()
        learner = self.learner
        for number in range(self.config.passes):
            if number and learner.config.restart_rows:
                learner.optimizers.restart_rows(learner.config.seed + learner.step)
            times = _times_of_pass(period.times, number, self.config.passes)
            learner.train(self.arm.ids(period.ids), period.labels, times)

    def measured(self, number: int, period: Period) -> dict[str, Any]:
        """How well period ``number``, which nothing was learned of, is predicted."""
        assert self.learner is not None
        begin = time.perf_counter()
        logits = self.learner.predict(self.arm.ids(period.ids))
        seconds = time.perf_counter() - begin
        features = [self.source.features.index(name) for name in self.config.slice_by]
        slices = measure(
            period.labels, logits, self.seen, period.ids, features, number - 1, self.config.often, self.config.away
        )
        return {
            "period": number,
            "rows": len(period),
            "auc": auc(period.labels, logits),
            "logloss": logloss(period.labels, logits),
            "best_auc": period.best_auc,
            "slices": {_named(key, self.source): value for key, value in slices.items()},
            "shared": self.arm.shared(period.ids, self.learner.table),
            "evaluation_seconds": seconds,
        }

    def tallies(self) -> dict[str, int]:
        """What a table says of ids that came and went; nothing of one whose ids stay."""
        told = getattr(self.learner and self.learner.table, "tallies", None)
        return told() if told is not None else {}

    def save(self, folder: Path, number: int) -> None:
        assert self.learner is not None
        held = {name: [torch.from_numpy(a) for a in getattr(self.seen, name)] for name in ("counts", "first", "last")}
        state = {"next": number, "seen": held, "arm": self.arm.state_dict(), "learner": self.learner.state_dict()}
        folder.mkdir(parents=True, exist_ok=True)
        save_state(folder / _STATE, {**state, "told": self.told})

    def resume(self, folder: Path) -> int:
        """Number of the period to train on next."""
        if not (folder / _STATE).is_file():
            return 0
        state = load_state(folder / _STATE)
        self.told = state["told"]
        for name, arrays in state["seen"].items():
            setattr(self.seen, name, [array.numpy() for array in arrays])
        self.arm.load_state_dict(state["arm"])
        self.learner = self.new_learner()
        self.learner.load_state_dict(state["learner"])
        return int(state["next"])


def _times_of_pass(times: np.ndarray, number: int, passes: int) -> np.ndarray:
    """int64 [n]: the passes over a period share its time, one after the other, since no clock goes back."""
    begin = times[:1]
    return begin + (number * (times[-1:] + 1 - begin) + times - begin) // passes


def _named(key: str, source: Source) -> str:
    feature, _, name = key.partition(":")
    return f"{source.features[int(feature)]}:{name}"


def run_stream(
    spec: StreamSpec, config: StreamConfig, source: Source, universe: Universe, folder: Path
) -> dict[str, Any]:
    """Run ``spec`` over the whole stream.

    Args:
        spec: the run.
        config: the comparison that it is of.
        source, universe: the stream.
        folder: of its state, saved after every period.

    Returns:
        Plain data: ``periods``, what was measured on every period but the first, and bytes.

    Raises:
        InfeasibleBudget, ValueError: the arm cannot be built within its budget.
        TrainingError: training diverged.
    """
    arm = make_arm(spec, config, source, universe)
    run = _Run(spec, config, source, universe, arm, Seen.nothing(universe), [])
    first = run.resume(folder)
    period = source.period(first)
    for number in range(first, source.periods - 1):
        before, begin = run.tallies(), time.perf_counter()
        run.learn(number, period)
        seconds = time.perf_counter() - begin
        period = source.period(number + 1)
        told = run.measured(number + 1, period)
        after = run.tallies()
        counted = {name: after[name] - (0 if config.retrain else before.get(name, 0)) for name in after}
        run.told.append({**told, "train_seconds": seconds, "tallies": counted, "bytes": run.arm.bytes})
        run.save(folder, number + 1)
    return {"bytes": max(told["bytes"] for told in run.told), "map_bytes": run.arm.map_bytes, "periods": run.told}

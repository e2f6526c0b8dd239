"""Models that train in turns until they have reached an AUC, and the time that each of them took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

__all__ = ["Racer", "race"]


@dataclass
class Racer:
    """A model, its batches and the time it has trained for.

    Attributes:
        peer, precision, gradient: as of a candidate (:mod:`rounds`).
        step: trains one batch.
        predict: logits of the validation split.
        source: batches of all epochs.
        lie_ready: batches are taken from the source before the clock starts.
        seconds, steps: trained so far.
        reached: by AUC, (seconds, steps) when it was first seen.
    """

    peer: str
    precision: str
    gradient: str
    step: Callable[[Any], float]
    predict: Callable[[], torch.Tensor]
    source: Generator[Any, None, None]
    lie_ready: bool = False
    seconds: float = 0.0
    steps: int = 0
    reached: dict[float, tuple[float, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.peer} {self.precision}"

    def train(self, steps: int) -> bool:
        """Train so many steps; False if the epochs are over."""
        source, before = islice(self.source, steps), self.steps
        source = iter(list(source)) if self.lie_ready else source
        start = time.perf_counter()
        for batch in source:
            self.step(batch)
            self.steps += 1
        self.seconds += time.perf_counter() - start
        return self.steps - before == steps


def race(racers: list[Racer], labels: np.ndarray, levels: list[float], every: int, seed: int) -> None:
    """Train all until they have reached the highest AUC or their epochs are over; fills ``reached``."""
    running, generator = list(racers), np.random.default_rng(seed)
    while running:
        for racer in [running[index] for index in generator.permutation(len(running))]:
            goes_on = racer.train(every)
            auc = float(roc_auc_score(labels, racer.predict().numpy()))
            for level in levels:
                if auc >= level and level not in racer.reached:
                    racer.reached[level] = (racer.seconds, racer.steps)
                    print(f"  AUC {level}: {racer.name:14s} {racer.seconds:7.2f} s, {racer.steps} steps", flush=True)
            if not goes_on or levels[-1] in racer.reached:
                running.remove(racer)
                racer.source.close()  # a loader's thread ends; the others are not to feel it

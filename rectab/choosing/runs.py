"""Trainings of a choice: each candidate in a folder of its own, full tables shared by what is encoded of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rectab.choosing.asked import Asked
from rectab.choosing.candidates import Candidate, Field, propose
from rectab.choosing.record import Measured, Record
from rectab.data.dataset import PreparedDataset
from rectab.data.selection import sampled_rows
from rectab.models import CTRModel
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.config import TrainConfig
from rectab.training.defaults import Settings, flat, settings_of, written
from rectab.training.errors import TrainingError
from rectab.training.result import RunResult
from rectab.training.run import train_once
from rectab.training.shared import SharedRuns

__all__ = ["Runs"]

_SAMPLE_SHARE, _SAMPLE_LEAST, _SAMPLE_VALID = 1 / 8, 20_000, 20_000
_SAMPLE_EPOCHS = 8


@dataclass
class Runs:
    """Trains candidates and keeps what they reach.

    Attributes:
        dataset: the data.
        asked: the question.
        folder: of the choice.
        record: what was measured.
        device: where it is trained.
    """

    dataset: PreparedDataset
    asked: Asked
    folder: Path
    record: Record
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        self.shared = SharedRuns(self.folder / "trained")
        self.settings = self._settings(self.dataset)

    def _settings(self, dataset: PreparedDataset) -> Settings:
        asked = self.asked
        return settings_of(dataset, asked.model, asked.history, asked.training, asked.model_options)

    def propose(self, budget: str | int) -> Field:
        """The candidates for a budget, under the memory and the optimizer that they are to be trained with."""
        asked = self.asked
        config = TrainConfig.from_json(self.settings.training, "train")
        optimizer = config.row_optimizer or config.optimizer
        return propose(self.dataset, asked.embedding_dim, budget, asked.train_memory, asked.count_ids, optimizer)

    def path(self, candidate: Candidate, seed: int) -> Path:
        """The folder of a run of all rows."""
        return self.folder / "runs" / f"{candidate.key}-seed{seed}"

    def measure(self, candidate: Candidate, seed: int, part: str = "all") -> Measured | None:
        """Validation AUC of a candidate; None if it cannot be trained (the record says why).

        Args:
            candidate: the table.
            seed: of the run.
            part: ``all`` training rows, or a ``sample`` of them, whose model is not kept.
        """
        known = self.record.find(candidate.key, part, seed)
        if known is not None or candidate.key in self.record.failed:
            return known
        begin = time.perf_counter()
        try:
            result = self.train(candidate, seed, part)
        except (TrainingError, ValueError) as error:
            self.record.fail(candidate.key, str(error))
            return None
        encoded = result.encoded or {}
        return self.record.add(
            Measured(
                candidate.key,
                part,
                seed,
                result.valid["auc"],
                time.perf_counter() - begin,
                result.serving_bytes,
                result.training_bytes,
                encoded.get("expected", {}).get("auc"),
                encoded.get("full_valid", {}).get("auc"),
            )
        )

    def train(self, candidate: Candidate, seed: int, part: str = "all", read_test: bool = False) -> RunResult:
        """The run of a candidate, trained or read back."""
        whole = part == "all"
        dataset = self.dataset if whole else _sample(self.dataset)
        settings = self.settings if whole else self._settings(dataset)
        keep = self.path(candidate, seed) if whole else None
        config = TrainConfig.from_json({**settings.training, "seed": seed}, "train")
        config = config if whole else replace(config, max_epochs=min(config.max_epochs, _SAMPLE_EPOCHS))
        return train_once(
            dataset,
            method=candidate.method,
            budget=candidate.budget,
            rows=candidate.rows,
            count_ids=self.asked.count_ids and candidate.budget is not None,
            model=self.asked.model,
            history=settings.history,
            model_options=settings.model,
            embedding_dim=candidate.embedding_dim,
            train_config=config,
            out_dir=keep,
            read_test=read_test,
            shared=self.shared if whole else None,
            progress="off",
            device=self.device,
        )

    @property
    def left_seconds(self) -> float:
        """Until the time is up; what costs nothing always fits."""
        return max(60 * self.asked.minutes - self.record.seconds, 0.0)

    def cost(self, candidate: str, seed: int) -> float:
        """Seconds that a training is expected to take: what the candidate's quickest one took (the first compiles
        kernels), or the median of the others; 0 if it is there already."""
        if self.record.find(candidate, "all", seed) is not None:
            return 0.0
        whole = [m for m in self.record.measured if m.part == "all"]
        own = [m.seconds for m in whole if m.candidate == candidate]
        return min(own) if own else median([m.seconds for m in whole] or [0.0])

    def may_train(self, candidate: Candidate, seed: int) -> bool:
        """Whether a run is there, or there is time for it."""
        there = (self.path(candidate, seed) / MODEL_FILE).exists()
        return there or self.cost(candidate.key, seed) <= self.left_seconds

    def model(self, candidate: Candidate, seed: int) -> CTRModel:
        """The trained model of a run of all rows, which is there."""
        return load_model(self.path(candidate, seed) / MODEL_FILE, device=self.device)

    def command(self, data: str, candidate: Candidate, seed: int, out: str) -> str:
        """What makes the run of a candidate."""
        given: list[Any] = ["rectab train", data, "--table", candidate.method]
        given += [] if candidate.budget is None else ["--budget", f"{candidate.budget}B"]
        given += ["--dim", candidate.embedding_dim]
        given += [] if candidate.rows == "fp32" else ["--rows", candidate.rows]
        given += ["--count-ids"] if self.asked.count_ids and candidate.budget is not None else []
        given += ["--model", self.asked.model, "--history", self.settings.history, "--seed", seed]
        given += [f"--without {name}" for name in self.asked.without]
        for place, settings in (("train", self.settings.training), ("model", self.settings.model)):
            given += [f"--set {name}={written(value)}" for name, value in flat(place, settings).items()]
        return " ".join(map(str, [*given, "--out", out]))


def _sample(dataset: PreparedDataset) -> PreparedDataset:
    """A share of the training rows and of those of validation, the same for every candidate."""
    rows = min(max(int(len(dataset.train) * _SAMPLE_SHARE), _SAMPLE_LEAST), len(dataset.train))
    return sampled_rows(dataset, rows, min(len(dataset.valid), _SAMPLE_VALID), seed=0)

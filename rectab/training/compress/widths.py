"""Runs of several widths under one budget: every width is encoded and measured, and validation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rectab.data.dataset import PreparedDataset
from rectab.quantize.rivals import SMALLEST, Shape
from rectab.tables.budget import format_bytes, full_table_bytes
from rectab.tables.family import InfeasibleBudget
from rectab.training.compress.encoder import Encoded, Encoder
from rectab.training.compress.kept import open_kept
from rectab.training.compress.source import FullRun, open_run
from rectab.training.elastic_folder import width_folders

__all__ = ["Attempt", "Choice", "Widths", "open_runs"]


def open_runs(folders: Sequence[Path], dataset: PreparedDataset, device: torch.device | str = "cpu") -> list[FullRun]:
    """Finished runs of the full table that differ in their width; an elastic one gives all of its widths.

    Raises:
        FileNotFoundError: a folder holds no finished run.
        ValueError: one cannot be compressed (see :func:`open_run`), or two are of one width or of different seeds.
    """
    runs: list[FullRun] = []
    for folder in (each for given in folders for each in (given, *width_folders(given))):
        run = open_run(folder, dataset, device)
        for other in runs:
            if other.embedding_dim == run.embedding_dim:
                raise ValueError(
                    f"{folder}: of width {run.embedding_dim}, as {other.folder} is; give one run of every width"
                )
            seeds = (other.result.train["seed"], run.result.train["seed"])
            if seeds[0] != seeds[1]:
                raise ValueError(
                    f"{folder}: of seed {seeds[1]}, and {other.folder} is of seed {seeds[0]}; give runs of one seed"
                )
        runs.append(run)
    return runs


@dataclass(frozen=True)
class Attempt:
    """What one width makes of a budget.

    Attributes:
        embedding_dim: the width.
        serving_bytes: of its table; None if none fits.
        expected, valid: metrics on validation as predicted and as measured; None if none fits.
        seconds: of allocation, encoding and validation.
    """

    embedding_dim: int
    serving_bytes: int | None
    expected: dict[str, float] | None
    valid: dict[str, float] | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The width of best validation AUC under a budget, encoded.

    Attributes:
        encoded: its model and metrics.
        attempts: of every width, in the order of the runs.
        runner_up: the second best width's; None if there is none.
    """

    encoded: Encoded
    attempts: tuple[Attempt, ...]
    runner_up: Encoded | None = None


class Widths:
    """Encodes runs of one or several widths to any budget.

    Args:
        runs: of different widths, at least one; losses are against the first one.
        full_bytes: what shares of a budget are of; None: the fp32 full table at the first one's width.
        count_ids: budgets are of the table and the map from raw values to ids together.
        shape: ``best``, or that of a rival, see :mod:`rectab.quantize.rivals`.
    """

    def __init__(
        self, runs: Sequence[FullRun], full_bytes: int | None = None, count_ids: bool = False, shape: Shape = "best"
    ) -> None:
        self.encoders = [Encoder(run, count_ids, shape) for run in runs]
        vocabularies = self.first.dataset.schema.vocabularies
        self.full_bytes = full_bytes or full_table_bytes(vocabularies, self.first.embedding_dim)

    @property
    def first(self) -> FullRun:
        return self.encoders[0].run

    @property
    def smallest_bytes(self) -> int:
        """Bytes of the smallest table of any width."""
        return min(encoder.smallest_bytes for encoder in self.encoders)

    def check(self, budget: int) -> None:
        """Raises InfeasibleBudget if no width has a table of ``budget`` bytes or less."""
        if budget < self.smallest_bytes:
            share = f"{self.smallest_bytes / self.full_bytes:.2g} of the full table's {format_bytes(self.full_bytes)}"
            first = self.encoders[0]
            smallest = SMALLEST[first.shape] + (" and the id map" if first.count_ids else "")
            raise InfeasibleBudget("quantized", budget, self.smallest_bytes, f"{smallest}, {share}")

    def encode(self, budget: int) -> Choice:
        """Encode every width to ``budget`` bytes. Raises InfeasibleBudget if none fits."""
        self.check(budget)
        made: list[Encoded] = []
        attempts = []
        for encoder in self.encoders:
            if budget < encoder.smallest_bytes:
                attempts.append(Attempt(encoder.run.embedding_dim, None, None, None, {}))
                continue
            encoded = encoder.encode(budget)
            attempts.append(_attempt(encoded))
            made = sorted([*made, encoded], key=lambda each: -each.valid["auc"])[:2]
        return Choice(made[0], tuple(attempts), made[1] if len(made) > 1 else None)

    def keep(self, folder: Path) -> Choice:
        """Encode the one run in the blocks and codebooks of an encoded run.

        Raises:
            FileNotFoundError: ``folder`` holds no encoded run.
            ValueError: the two do not go together.
        """
        made = self.encoders[0].keep(open_kept(folder, self.first))
        return Choice(made, (_attempt(made),))


def _attempt(made: Encoded) -> Attempt:
    return Attempt(made.run.embedding_dim, made.serving_bytes, made.expected, made.valid, made.seconds)

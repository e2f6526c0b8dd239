"""``rectab choose``: from a budget to a trained model, its price, and what the others reached."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rectab.choosing.answer import Answer, answer_of
from rectab.choosing.asked import Asked
from rectab.choosing.candidates import Candidate, Field
from rectab.choosing.fewest import fewest_for
from rectab.choosing.page import write_page
from rectab.choosing.race import Race, run_race
from rectab.choosing.record import Record
from rectab.choosing.runs import Runs
from rectab.data.dataset import PreparedDataset
from rectab.delong import FEWEST_ROWS
from rectab.sweep.store import exclusive
from rectab.tables.budget import format_bytes

__all__ = ["choose", "worth_training"]

NO_LOSS = 0.0005
"""Validation AUC: a predicted loss below it is not worth a second training."""

MUCH_LOST = 0.005

_SCREEN_SHARE = 0.25  # of the time, for short trainings on a sample
_SCREEN_LEFT = 2
_SCREEN_LEFT_ALONE = 4  # where nothing is encoded


def choose(
    dataset: PreparedDataset,
    asked: Asked,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    data: str | None = None,
) -> Answer:
    """Choose a table, train it and say what it costs. Goes on where ``out`` holds a choice that was stopped.

    Args:
        dataset: the data. Validation chooses; the test split is read once, of the finalists.
        asked: the question.
        out: gets ``choice.json``, ``model/`` (a run folder), ``report.html`` and every run.
        device: where everything is trained.
        say: called with a line of text for every step.
        data: how the data set is called in the command that makes the model; its path if None.

    Raises:
        ValueError: no candidate fits, nothing could be trained, ``out`` holds another choice, or a split has fewer
            than two rows of either class.
        SweepFolderError: another process is at work in ``out``.
    """
    _check_classes(dataset)
    with exclusive(out):
        identity = {**asked.identity(), "data": dataset.fingerprint(), "device": str(device)}
        record = Record.open(out, identity)
        runs = Runs(dataset, asked, out, record, device)
        chooser = _Chooser(runs, say)
        finalists, field, race = chooser.finalists()
        say("test split: read once, of the finalists")
        answer = answer_of(runs, field, race, finalists, data or str(dataset.path))
        _keep_model(runs.path(answer.winner, answer.seeds[0]), out / "model")
        record.save(answer=answer.to_json())
        write_page(answer, field, record, _title(asked, dataset.name), out)
    return answer


def _check_classes(dataset: PreparedDataset) -> None:
    """Refuse before anything is trained what no AUC with an interval can be had on."""
    for name, split in (("validation", dataset.valid), ("test", dataset.test)):
        positive = int(np.count_nonzero(split.labels))
        negative = len(split) - positive
        if min(positive, negative) < FEWEST_ROWS:
            raise ValueError(
                f"{dataset.name}: its {name} split has {positive} positive and {negative} negative rows; AUC with its "
                f"interval needs {FEWEST_ROWS} of either; prepare it with another split"
            )


def _title(asked: Asked, name: str) -> str:
    what = [] if asked.budget is None else [f"within {asked.budget}"]
    what += [] if asked.loss is None else [f"losing at most {asked.loss:g}"]
    what += [] if asked.train_memory is None else [f"trained in {asked.train_memory}"]
    return f"{name}: which table, {', '.join(what)}?"


def _keep_model(run: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "*.lock"))


@dataclass
class _Chooser:
    """Attributes:
    runs: what trains.
    told: called with every line.
    """

    runs: Runs
    told: Callable[[str], None]

    def say(self, line: str) -> None:
        self.runs.record.lines.append(line)
        self.told(line)

    def finalists(self) -> tuple[list[Candidate], Field, Race]:
        """The candidates of the last round, the best first."""
        runs, asked = self.runs, self.runs.asked
        budget: str | int | None = asked.budget
        if asked.loss is not None:
            budget = fewest_for(runs, self.say)
        assert budget is not None
        field = self._field(budget)
        encoded = self._encoded(field)
        small = self._screened(field, alone=not encoded)
        candidates = {c.key: c for c in (*encoded, *small)}
        race = run_race(list(candidates), self._measure(candidates), asked.seeds, runs.cost, lambda: runs.left_seconds)
        if not race.left:
            reasons = "; ".join(f"{key}: {why}" for key, why in runs.record.failed.items())
            raise ValueError(f"no candidate could be trained ({reasons})")
        self.say(_told(race, candidates))
        return [candidates[key] for key in race.left], field, race

    def _field(self, budget: str | int) -> Field:
        field = self.runs.propose(budget)
        if not field.encoded and not field.small:
            reasons = "".join(f"\n  {ruled.label}: {ruled.reason}" for ruled in field.ruled_out)
            raise ValueError(f"no table fits the budget:{reasons}")
        what = [f"{len(field.encoded)} encoded of a trained full table", f"{len(field.small)} small while they train"]
        self.say(f"candidates: {', '.join(what)}; {len(field.ruled_out)} methods ruled out")
        return field

    def _encoded(self, field: Field) -> list[Candidate]:
        """Encoded tables that are worth a training: the widest first, and narrower ones if it is predicted to lose."""
        if not field.encoded:
            return []
        first = field.encoded[0]
        made = self.runs.measure(first, seed=0)
        if made is None or made.expected is None or made.full_auc is None:
            return list(field.encoded[1:])
        lost = made.full_auc - made.expected
        self.say(
            f"full table trained: validation AUC {made.full_auc:.4f}; {first.label} at "
            f"{format_bytes(made.serving_bytes)} predicted to lose {lost:.4f}, loses {made.full_auc - made.auc:.4f}"
        )
        return worth_training(field.encoded, lost)

    def _screened(self, field: Field, alone: bool) -> list[Candidate]:
        """The best few of the tables that are small while they train, by short trainings on a sample."""
        keep = _SCREEN_LEFT_ALONE if alone else _SCREEN_LEFT
        if len(field.small) <= keep:
            return list(field.small)
        until = self.runs.left_seconds * (1 - _SCREEN_SHARE)
        found: list[tuple[float, Candidate]] = []
        for candidate in field.small:
            known = self.runs.record.find(candidate.key, "sample", 0)
            if known is None and self.runs.left_seconds <= until and not (alone and not found):
                break
            made = known or self.runs.measure(candidate, seed=0, part="sample")
            if made is not None:
                found.append((made.auc, candidate))
        found.sort(key=lambda item: -item[0])
        kept = [candidate for _, candidate in found[:keep]]
        told = ", ".join(f"{candidate.label} {auc:.4f}" for auc, candidate in found[:keep])
        left = f"; left: {told}" if kept else ""
        self.say(f"screened on a sample: {len(found)} of {len(field.small)}{left}")
        return kept

    def _measure(self, candidates: dict[str, Candidate]) -> Callable[[str, int], float | None]:
        def measure(key: str, seed: int) -> float | None:
            made = self.runs.measure(candidates[key], seed)
            if made is not None:
                self.told(
                    f"  seed {seed}: {candidates[key].label}: validation AUC {made.auc:.5f}, {made.seconds:.0f} s"
                )
            return None if made is None else made.auc

        return measure


def worth_training(encoded: Sequence[Candidate], lost: float) -> list[Candidate]:
    """Encoded tables in the order to train them, the first one being there.

    Where it is predicted to lose nothing, one narrower table is tried: where the full table is learned by heart, that
    one may be better. Where much is lost, the narrowest come first: bytes buy them more bits (Frappe at 2 %).

    Args:
        encoded: the widest first.
        lost: validation AUC that encoding the first one is predicted to lose.
    """
    if lost <= NO_LOSS:
        return list(encoded[:2])
    first, *narrower = encoded
    return [first, *(reversed(narrower) if lost > MUCH_LOST else narrower)]


def _told(race: Race, candidates: dict[str, Candidate]) -> str:
    """One line of how the race ended."""
    best = race.left[0]
    ended = "every seed was run" if race.ended == "seeds" else "the time is up"
    seeds = len(race.auc[best])
    return f"race over ({ended}): {candidates[best].label} leads with {race.mean(best):.5f}, {seeds} seed(s)"

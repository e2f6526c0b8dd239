"""What a choice ends in: one line, the command that makes the model, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rectab.choosing.candidates import Candidate, Field
from rectab.choosing.race import Race
from rectab.choosing.runs import Runs
from rectab.choosing.verdict import Compared, Finalist, compare, level, winner_of
from rectab.tables.budget import format_bytes
from rectab.training.config import TrainConfig
from rectab.training.evaluation import predict
from rectab.training.measuring import scores_on_test

__all__ = ["Answer", "answer_of"]

_FINALISTS = 3


@dataclass(frozen=True)
class Answer:
    """The recommendation.

    Attributes:
        winner, runner_up: of the candidates; None if there was one only.
        full: the full table; None where it cannot be trained.
        seeds: that the winner was trained with.
        serving_bytes, training_bytes: of the winner, counted; largest over seeds.
        full_bytes: of the fp32 full table.
        valid_auc: of the winner on validation, mean over seeds.
        test: of the winner on the test split.
        against_full, against_runner_up: winner less the other on the test split, paired; None if there is no such.
        not_told_apart: labels of candidates that validation cannot tell from its best one.
        cheaper: the winner is not the one of the best validation AUC, but takes fewer bytes and cannot be told from it.
        compared: how many candidates were trained on all rows.
        ended: why the race ended, ``seeds`` or ``time``.
        seconds: that the choice took.
        command: makes the model.
    """

    winner: Candidate
    runner_up: Candidate | None
    full: Candidate | None
    seeds: tuple[int, ...]
    serving_bytes: int
    training_bytes: int
    full_bytes: int
    valid_auc: float
    test: Compared
    against_full: Compared | None
    against_runner_up: Compared | None
    not_told_apart: tuple[str, ...]
    cheaper: bool
    compared: int
    ended: str
    seconds: float
    command: str

    def line(self) -> str:
        """The recommendation in one line."""
        size = f"{format_bytes(self.serving_bytes)} ({self.serving_bytes / self.full_bytes:.3g} of full)"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) != 1 else ''}"
        parts = [f"{self.winner.label}: {size}, test AUC {self.test.mean:.4f} ± {self.test.half_width:.4f} ({seeds})"]
        if self.against_full is not None:
            parts.append(f"against full {_signed(self.against_full)}")
        elif self.full is None:
            parts.append("the full table cannot be trained here")
        if self.runner_up is not None and self.against_runner_up is not None:
            parts.append(f"against {self.runner_up.label} {_signed(self.against_runner_up)}")
        return "; ".join(parts)

    def remarks(self) -> list[str]:
        """What the line leaves out: what cannot be told apart, and what was not waited for."""
        told = []
        if self.not_told_apart:
            what = f"validation cannot tell {', '.join(self.not_told_apart)} from the best one"
            told.append(
                f"{what}; the cheaper to serve was taken" if self.cheaper else f"{what}, which serves as few bytes"
            )
        if self.ended == "time":
            told.append("the time was up before every finalist had run every seed; --minutes gives more")
        if len(self.seeds) < 3:
            told.append("fewer than three seeds: the interval is of the test rows alone")
        if self.compared > 2:
            told.append(
                f"the best of {self.compared} trained candidates by validation; intervals are for one comparison"
            )
        return told

    def to_json(self) -> dict[str, Any]:
        def of(candidate: Candidate | None) -> dict[str, Any] | None:
            return None if candidate is None else {"label": candidate.label, **vars(candidate)}

        def how(compared: Compared | None) -> dict[str, Any] | None:
            return None if compared is None else compared.to_json()

        plain = dict(vars(self))
        plain |= {name: of(getattr(self, name)) for name in ("winner", "runner_up", "full")}
        plain |= {name: how(getattr(self, name)) for name in ("test", "against_full", "against_runner_up")}
        return plain | {"seeds": list(self.seeds), "not_told_apart": list(self.not_told_apart), "line": self.line()}


def _signed(value: Compared) -> str:
    return f"{value.mean:+.4f} ± {value.half_width:.4f}{'' if value.decided else ' (not told apart)'}"


def answer_of(runs: Runs, field: Field, race: Race, ranked: Sequence[Candidate], data: str) -> Answer:
    """Compare the finalists on validation, and measure those that count on the test split.

    Args:
        runs: what was trained.
        field, race: the candidates and how they ran.
        ranked: who is left of the race, the best first.
        data: the data set in the command.
    """
    seeds = tuple(race.auc[ranked[0].key])
    finalists = [c for c in ranked if set(seeds) <= race.auc[c.key].keys()][:_FINALISTS]
    by_key = {c.key: c for c in finalists}
    on_valid = [_finalist(runs, c, seeds, "valid") for c in finalists]
    chosen, level_with = winner_of(runs.dataset.valid.labels, on_valid)
    winner = by_key[chosen.key]
    runner_up = next((c for c in [*finalists, *ranked] if c is not winner), None)
    full = field.full if field.full is not None and field.full.key != winner.key else None
    labels = runs.dataset.test.labels
    tested = _finalist(runs, winner, seeds, "test")
    others = [
        None if c is None else compare(labels, tested, _finalist(runs, c, _trained(runs, c, seeds, race), "test"))
        for c in (full, runner_up)
    ]
    made = [runs.record.find(winner.key, "all", seed) for seed in seeds]
    return Answer(
        winner=winner,
        runner_up=runner_up,
        full=field.full,
        seeds=seeds,
        serving_bytes=max(m.serving_bytes for m in made if m is not None),
        training_bytes=max(m.training_bytes for m in made if m is not None),
        full_bytes=field.full_bytes,
        valid_auc=race.mean(winner.key),
        test=level(labels, tested),
        against_full=others[0],
        against_runner_up=others[1],
        not_told_apart=tuple(by_key[key].label for key in level_with),
        cheaper=chosen.key != on_valid[0].key,
        compared=len(race.auc),
        ended=race.ended,
        seconds=runs.record.seconds,
        command=runs.command(data, winner, seeds[0], "runs/chosen"),
    )


def _trained(runs: Runs, candidate: Candidate, seeds: Sequence[int], race: Race) -> tuple[int, ...]:
    """The seeds that a candidate has: of the full table those that time is left for, the first one at least."""
    if candidate.key in race.auc:
        return tuple(seed for seed in seeds if seed in race.auc[candidate.key])
    return tuple(seed for seed in seeds if seed == seeds[0] or runs.may_train(candidate, seed))


def _finalist(runs: Runs, candidate: Candidate, seeds: Sequence[int], split: str) -> Finalist:
    """Scores of a candidate on the rows of ``valid`` or ``test``."""
    scores: dict[int, np.ndarray] = {}
    bytes_served = 0
    for seed in seeds:
        result = runs.train(candidate, seed)
        bytes_served = max(bytes_served, result.serving_bytes)
        config, model = TrainConfig.from_json(result.train, "train"), runs.model(candidate, seed)
        if split == "valid":
            scores[seed] = predict(model, runs.dataset.valid, config.evaluation_batch_size)
        else:
            scores[seed] = scores_on_test(model, runs.dataset, config)
    return Finalist(candidate.key, bytes_served, scores)

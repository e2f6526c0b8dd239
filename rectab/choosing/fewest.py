"""The fewest bytes within a loss: a budget for the candidates to race at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rectab.choosing.candidates import Candidate, Field
from rectab.choosing.runs import Runs
from rectab.tables.budget import format_bytes, full_table_bytes, parse_budget
from rectab.training.compress.curve import fewest_within
from rectab.training.compress.widths import Widths, open_runs

__all__ = ["fewest_for"]

_STEP = 2  # by which budgets shrink where each takes a training
_TRIED = 2  # methods at each


def fewest_for(runs: Runs, say: Callable[[str], None]) -> int:
    """Bytes of the smallest table that loses at most what was asked for, of validation AUC with seed 0.

    An encoded table is searched on one training of the full table, the widest that can be trained. Where none can, the
    best table that can stands for it, and budgets are halved until the best of the smaller ones loses more.

    Raises:
        ValueError: no table within the budget loses so little.
    """
    asked = runs.asked
    assert asked.loss is not None
    full_bytes = full_table_bytes(runs.dataset.schema.vocabularies, asked.embedding_dim)
    most = full_bytes if asked.budget is None else parse_budget(asked.budget, full_bytes)
    field = runs.propose(most)
    if field.encoded:
        found = _encoded(runs, replace(field.encoded[0], method="full", budget=None), asked.loss)
        if found > most:
            raise ValueError(
                f"--loss {asked.loss:g}: takes {format_bytes(found)}, and --budget {asked.budget} is "
                f"{format_bytes(most)}; allow more of either"
            )
    else:
        found = _halved(runs, field, most, asked.loss)
    say(f"loss {asked.loss:g}: {format_bytes(found)} are enough, {found / full_bytes:.2%} of the full table")
    return found


def _encoded(runs: Runs, full: Candidate, loss: float) -> int:
    runs.train(full, seed=0)
    opened = open_runs([runs.path(full, 0)], runs.dataset, runs.device)
    search, _ = fewest_within(Widths(opened, count_ids=runs.asked.count_ids), loss)
    assert search.found is not None
    return search.found


def _halved(runs: Runs, field: Field, most: int, loss: float) -> int:
    """Budgets from ``most`` down; the last one whose best table loses at most ``loss`` against that of ``most``."""
    best = _best_at(runs, field, most)
    if best is None:
        raise ValueError(f"no table can be trained within {format_bytes(most)}")
    budget = most
    while True:
        smaller = budget // _STEP
        reached = _best_at(runs, runs.propose(max(smaller, 1)), smaller)
        if reached is None or reached < best - loss:
            return budget
        budget = smaller


def _best_at(runs: Runs, field: Field, budget: int) -> float | None:
    """The best validation AUC of the first few methods at a budget; None if none fits."""
    tried = [runs.measure(candidate, seed=0) for candidate in field.small[:_TRIED]] if budget else []
    return max((made.auc for made in tried if made is not None), default=None)

"""The answer in plain words, from the numbers."""

from __future__ import annotations

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.results import SLICES
from rectab.sweep.statistics import DECIDING_SEEDS, Estimate

__all__ = ["answer", "recommendation", "status_counts"]

ACCEPTABLE_LOSS = 0.001


def answer(section: Section, best_auc: float | None) -> list[str]:
    """A few sentences: the full table, what each method loses at some budgets, the smallest table that is good enough.

    Args:
        section: one model on one data set.
        best_auc: AUC of the true click probability, where it is known.
    """
    if not section.cells:
        return ["No run of this section finished; the reasons are listed under failures."]
    reference = section.full
    if reference is None:
        best = max(section.cells, key=lambda cell: cell.auc.mean)
        return [f"The full table was not run, so no loss can be stated. The best is {_named(best)} with {_auc(best)}."]
    sentences = [f"The full table takes {fmt.size(reference.serving_bytes)} and reaches a test {_auc(reference)}."]
    if best_auc is not None:
        sentences.append(f"The best possible AUC on these rows, that of the true click probability, is {best_auc:.4f}.")
    if reference.auc.n < DECIDING_SEEDS:
        few = "One seed" if reference.auc.n == 1 else "Two seeds"
        sentences.append(
            f"{few} cannot decide which table is better: run at least {DECIDING_SEEDS} (seeds = [0, 1, 2])."
        )
    sentences += [_losses_at(section, reference, budget) for budget in _levels(section)]
    sentences.append(_good_enough(section, reference))
    sentences += _where(section, reference)
    return sentences + _settings(section)


def recommendation(section: Section) -> list[str]:
    """What to take, its price, and how sure that is: at most three short sentences."""
    reference = section.full
    if not section.cells or reference is None:
        return answer(section, None)
    cell, others = section.smallest_within(ACCEPTABLE_LOSS), [c for c in section.cells if c is not reference]
    if cell is None:
        if not others:
            return [f"Only the full table was measured: test {_auc(reference)}."]
        cell = max(others, key=lambda c: c.auc.mean)
        first = f"No smaller table comes within {ACCEPTABLE_LOSS} of the full one. The nearest is {_named(cell)}"
    else:
        first = f"Take {_named(cell)}"
    change, training = cell.difference(reference), cell.estimate("training_bytes")
    trained = f", {fmt.size(training.mean)} to train" if training is not None else ""
    sentences = [f"{first}: {fmt.size(cell.serving_bytes)} served, {fmt.share(cell.ratio)} of the full table{trained}."]
    if change is not None:
        full = f"the full table's {reference.auc.mean:.4f}"
        seeds = f"{change.n} seed{'s' if change.n != 1 else ''}"
        sentences.append(f"It {_change(change)} test AUC against {full} ({seeds}).")
        if change.half_width is not None and change.low < -ACCEPTABLE_LOSS:
            sentences.append(f"The interval does not rule out a loss above {ACCEPTABLE_LOSS}.")
    return sentences


def _settings(section: Section) -> list[str]:
    """Runs that stopped too early or were best at once say little about their tables: how many, and what one says."""
    finished = [row for row in section.rows if row["status"] == "ok"]
    told = [row for row in finished if row["advice"]]
    if not told:
        return []
    first = told[0]
    at = f" at {first['budget']}" if first["budget"] else ""
    where = f"{first['method']}{at}, seed {first['seed']}"
    return [f"The settings may not suit {len(told)} of {len(finished)} runs. {where}: {first['advice']}"]


def status_counts(sections: list[Section]) -> dict[str, int]:
    """Runs by status."""
    counts = {"ok": 0, "failed": 0, "infeasible": 0}
    for section in sections:
        for row in section.rows:
            counts[row["status"]] += 1
    return counts


def _named(cell: Cell) -> str:
    return f"{cell.method} at {cell.budget}" if cell.budget else cell.method


def _auc(cell: Cell) -> str:
    seeds = "one seed, so its spread is not known" if cell.auc.n == 1 else f"{cell.auc.n} seeds"
    return f"AUC of {fmt.with_interval(cell.auc)} ({seeds})"


def _levels(section: Section) -> list[str]:
    """Up to three budgets to speak of: the largest, the one nearest to a tenth, the smallest."""
    sizes = {cell.budget: cell.any_row["budget_bytes"] for cell in section.cells if cell.budget is not None}
    if not sizes:
        return []
    ordered = sorted(sizes, key=lambda budget: -sizes[budget])
    tenth = min(ordered, key=lambda budget: abs(sizes[budget] / section.full_bytes - 0.1))
    return list(dict.fromkeys([ordered[0], tenth, ordered[-1]]))


def _change(value: Estimate) -> str:
    """``loses 0.0012 ± 0.0004``."""
    interval = "" if value.half_width is None else f" ± {value.half_width:.4f}"
    return f"{'loses' if value.mean < 0 else 'gains'} {abs(value.mean):.4f}{interval}"


def _losses_at(section: Section, reference: Cell, budget: str) -> str:
    changes = [
        (cell.method, change)
        for cell in section.cells
        if cell.budget == budget and (change := cell.difference(reference)) is not None
    ]
    changes.sort(key=lambda item: -item[1].mean)
    what = f"{budget} of the bytes" if budget.endswith("%") else budget
    return f"At {what}, {_listed([f'{name} {_change(change)}' for name, change in changes])} AUC."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _good_enough(section: Section, reference: Cell) -> str:
    cell = section.smallest_within(ACCEPTABLE_LOSS)
    if cell is None:
        return f"No smaller table measured here stays within {ACCEPTABLE_LOSS} of the full table's AUC."
    change = cell.difference(reference)
    assert change is not None
    size = f"{fmt.size(cell.serving_bytes)}, {fmt.share(cell.ratio)} of the full table"
    text = f"The smallest table within {ACCEPTABLE_LOSS} of full is {_named(cell)} ({size}): it {_change(change)}"
    if change.half_width is None:
        return text + " (one seed)."
    if change.low < -ACCEPTABLE_LOSS:
        return f"{text}; the interval does not rule out a loss above {ACCEPTABLE_LOSS}."
    return text + "."


def _where(section: Section, reference: Cell) -> list[str]:
    """Which slice of ids the best method lost most on, at the budget nearest to a tenth."""
    levels = _levels(section)
    cells = [cell for cell in section.cells if levels and cell.budget == levels[min(1, len(levels) - 1)]]
    if not cells:
        return []
    cell = max(cells, key=lambda cell: cell.auc.mean)
    changes = {name: cell.difference(reference, f"auc_{name}") for name in SLICES}
    known = {name: change for name, change in changes.items() if change is not None}
    clear = [f"{_change(change)} on {name} ids" for name, change in known.items() if change.excludes_zero]
    noise = [name for name, change in known.items() if not change.excludes_zero]
    if noise:
        clear.append(f"shows no difference beyond the noise on {_listed(noise)} ids")
    return [f"By id frequency, {_named(cell)} {_listed(clear)}."] if known else []

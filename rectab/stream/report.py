"""The report of a stream: curves by period, a table of every arm and slice, what came and went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rectab.atomic_file import write_atomic
from rectab.stream.runs import Runs, read_runs
from rectab.stream.slices import SLICES
from rectab.sweep import formatting as fmt
from rectab.sweep.pages import assets, template
from rectab.sweep.statistics import Estimate, estimate
from rectab.sweep.store import SweepFolderError

__all__ = ["WARM", "Cell", "cells_of", "write_stream_report"]

WARM = 3
"""Periods measured first that means leave out: nothing has come back yet, and little has gone."""

_BARS_FROM = 3  # seeds

Record = dict[str, Any]


class Cell:
    """An arm at a budget: one run a seed."""

    def __init__(self, label: str, budget: str | None, records: Sequence[Record]) -> None:
        self.label, self.budget, self.records = label, budget, list(records)

    @property
    def name(self) -> str:
        return self.label if self.budget is None else f"{self.label} at {self.budget}"

    def of(self, read: Callable[[Record], float | None]) -> Estimate | None:
        """Mean over periods, then over seeds, of what ``read`` reads of a period."""
        return estimate(list(self.by_seed(read).values()))

    def by_seed(self, read: Callable[[Record], float | None]) -> dict[int, float]:
        """Mean over the periods that count, by seed."""
        told = {}
        for record in self.records:
            values = [v for v in map(read, _counted(record["periods"])) if v is not None]
            if values:
                told[record["seed"]] = sum(values) / len(values)
        return told

    def against(self, other: Cell, read: Callable[[Record], float | None]) -> Estimate | None:
        """Mean difference of the seeds that both have."""
        own, others = self.by_seed(read), other.by_seed(read)
        return estimate([own[seed] - others[seed] for seed in own if seed in others])


def _counted(periods: list[Record]) -> list[Record]:
    return periods[WARM:] if len(periods) > WARM else periods


def cells_of(runs: Runs) -> list[Cell]:
    """Every arm and budget that has a finished run."""
    found: dict[tuple[str, str | None], list[Record]] = {}
    for record in read_runs(runs):
        if record["status"] == "ok":
            found.setdefault((record["label"], record["budget"]), []).append(record)
    return [Cell(label, budget, records) for (label, budget), records in found.items()]


def write_stream_report(runs: Runs) -> Path:
    """Write ``report.html`` and ``report.md``. Raises SweepFolderError if no run has finished."""
    cells = cells_of(runs)
    if not cells:
        raise SweepFolderError(f"{runs.folder}: no run of the present configuration has finished")
    failed = [record for record in read_runs(runs) if record["status"] != "ok"]
    budgets = [b for b in runs.config.budgets if any(cell.budget == b for cell in cells)]
    content = {
        "title": runs.config.title or "AUC by period at equal bytes",
        "config": runs.config,
        "tables": [_table(budget, cells, runs) for budget in budgets],
        "flows": _flows(cells),
        "failed": failed,
        "charts": {f"chart{i}": _chart(budget, cells) for i, budget in enumerate(budgets)},
        "budgets": budgets,
        "warm": WARM,
        "fmt": fmt,
        "environment": cells[0].records[0]["environment"],
    }
    write_atomic(runs.folder / "report.md", template("stream.md.j2").render(content))
    write_atomic(runs.folder / "report.html", template("stream.html.j2").render(content, **assets()))
    return runs.folder / "report.html"


def _of_budget(budget: str, cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.budget in (None, budget)]


def _slice(name: str) -> Callable[[Record], float | None]:
    return lambda period: period["slices"].get(name, {}).get("auc")


def _auc(period: Record) -> float | None:
    value: float | None = period["auc"]
    return value


def _table(budget: str, cells: list[Cell], runs: Runs) -> dict[str, Any]:
    names = [f"{feature}:{name}" for feature in runs.config.slice_by for name in SLICES]
    rows = []
    for cell in _of_budget(budget, cells):
        values = [fmt.with_interval(cell.of(_auc))] + [fmt.with_interval(cell.of(_slice(name))) for name in names]
        rows.append([cell.name, fmt.size(max(r["bytes"] for r in cell.records)), str(len(cell.records)), *values])
    best = [period["best_auc"] for period in _counted(cells[0].records[0]["periods"]) if period["best_auc"] is not None]
    return {
        "budget": budget,
        "columns": ["arm", "bytes, map included", "seeds", "AUC", *names],
        "rows": rows,
        "rival": _against_the_best(budget, cells, names),
        "best": fmt.number(sum(best) / len(best)) if best else None,
    }


def _against_the_best(budget: str, cells: list[Cell], names: list[str]) -> dict[str, Any] | None:
    """Every arm within the budget minus the one of the highest AUC, on the seeds that both have; None for a single arm.

    Seeds of a synthetic stream are draws of it, which differ by more than the arms do on each.
    """
    arms = [cell for cell in cells if cell.budget == budget]
    best = max(arms, key=lambda cell: _height(cell.of(_auc)))
    reads = [_auc, *map(_slice, names)]
    rows = [[c.name, *(fmt.difference(c.against(best, read)) for read in reads)] for c in arms if c is not best]
    return {"name": best.name, "columns": ["arm", "AUC", *names], "rows": rows} if rows else None


def _height(found: Estimate | None) -> float:
    return -1.0 if found is None else found.mean


def _flows(cells: list[Cell]) -> dict[str, Any]:
    """Who came and went, and how long it took, a period on average."""
    rows = []
    for cell in cells:
        first = cell.records[0]["periods"][-1]["tallies"]
        counted = [
            fmt.rate(_mean(cell, lambda p, n=name: p["tallies"].get(n))) if first else fmt.MISSING  # type: ignore[misc]
            for name in ("admitted", "evicted")
        ]
        absent = _mean(cell, lambda p: p["tallies"]["absent"] / p["tallies"]["lookups"]) if first else None
        shared, seconds = _mean(cell, lambda p: p["shared"]), _mean(cell, lambda p: p["train_seconds"])
        rows.append([cell.name, *counted, fmt.share(absent), fmt.share(shared), fmt.duration(seconds)])
    return {
        "columns": ["arm", "admitted a period", "evicted", "trained without a row", "no row alone", "training"],
        "rows": rows,
    }


def _mean(cell: Cell, read: Callable[[Record], float | None]) -> float | None:
    found = cell.of(read)
    return None if found is None else found.mean


def _chart(budget: str, cells: list[Cell]) -> dict[str, Any]:
    """AUC by period: a line an arm with intervals over seeds, and the best that is possible, where that is near."""
    traces = [_line(cell, position) for position, cell in enumerate(_of_budget(budget, cells))]
    heights = [y for trace in traces for y in trace["y"]]
    margin = 0.1 * max(max(heights) - min(heights), 1e-4)
    periods = cells[0].records[0]["periods"]
    best = [period["best_auc"] for period in periods if period["best_auc"] is not None]
    if len(best) == len(periods) and min(best) <= max(heights) + margin:  # else it would squeeze all other lines
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best possible",
                "x": [period["period"] for period in periods],
                "y": best,
                "line": {"color": "var(--best)", "dash": "dash", "width": 1.5},
            }
        )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "period, measured before it is learned"}},
            "yaxis": {"title": {"text": "AUC"}, "range": [min(heights) - margin, max(heights) + margin]},
        },
    }


def _bar(found: Estimate | None, seeds: int) -> float:
    """Half of an interval; none of two seeds, which would be as high as the chart."""
    return found.half_width or 0.0 if found is not None and seeds >= _BARS_FROM else 0.0


def _line(cell: Cell, position: int) -> dict[str, Any]:
    numbers = [period["period"] for period in cell.records[0]["periods"]]
    points = [estimate([record["periods"][i]["auc"] for record in cell.records]) for i in range(len(numbers))]
    color = "var(--series-full)" if cell.budget is None else f"var(--series-{(position - 1) % 8 + 1})"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": cell.name,
        "x": numbers,
        "y": [point.mean for point in points if point],
        "error_y": {"type": "data", "array": [_bar(p, len(cell.records)) for p in points], "color": color},
        "marker": {"color": color, "symbol": "circle", "size": 6},
        "line": {"color": color, "width": 2, "dash": "solid" if position < 9 else "dot"},
    }

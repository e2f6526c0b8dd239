"""Several data sets in one page: which method ranks where at each budget, and what to take on each set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rectab.atomic_file import write_atomic
from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section, sections_of
from rectab.sweep.charts import auc_against_bytes, method_styles
from rectab.sweep.pages import assets, template
from rectab.sweep.plan import plan_from_folder
from rectab.sweep.report_values import ReportTable, Value, columns_of, method_value
from rectab.sweep.results import collect_results
from rectab.sweep.store import SweepFolderError
from rectab.sweep.summary import recommendation

__all__ = ["rank_table", "write_overview"]


def write_overview(folders: Sequence[Path], path: Path) -> Path:
    """Write one page over the sections (data set and model) of several sweeps; it opens offline.

    Raises:
        SweepFolderError: a folder is not that of a sweep, or nothing in it has finished.
    """
    sections: list[Section] = []
    for folder in folders:
        found = [section for section in sections_of(collect_results(plan_from_folder(folder))) if section.cells]
        if not found:
            raise SweepFolderError(f"{folder}: no run of the present configuration has finished")
        sections += found
    styles = method_styles(sections)
    views = [
        {
            "key": f"o{index}",
            "title": f"{section.dataset}: {section.model}",
            "recommendation": recommendation(section),
            "methods": section.methods,
        }
        for index, section in enumerate(sections)
    ]
    charts: dict[str, Any] = {}
    for view, section in zip(views, sections, strict=True):
        figure = auc_against_bytes(section, styles, None)
        charts[str(view["key"])] = {**figure, "layout": {**figure["layout"], "compact": True}}
    content = {"views": views, "table": rank_table(sections), "styles": styles, "charts": charts, "fmt": fmt}
    write_atomic(path, template("overview.html.j2").render(content, **assets()))
    return path


def rank_table(sections: Sequence[Section]) -> ReportTable:
    """Mean rank of every method at every budget that two methods were run at, over the sections that have it."""
    ranks: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    sizes: dict[str, float] = {}
    for section in sections:
        for budget, cells in _by_budget(section).items():
            if len(cells) < 2:
                continue
            sizes[budget] = max(sizes.get(budget, 0.0), cells[0].any_row["budget_bytes"] / section.full_bytes)
            for cell in cells:
                held = ranks.setdefault(cell.method, {}).setdefault(budget, [])
                held.append((_rank(cell, cells), _lost(section, cell)))
    budgets = sorted(sizes, key=lambda budget: -sizes[budget])
    rows = [
        [method_value(method), *(_value(found.get(budget, [])) for budget in budgets)]
        for method, found in sorted(ranks.items(), key=lambda item: _mean_rank(item[1]))
    ]
    return ReportTable(
        "ranks",
        "Rank of each method by budget",
        "Mean rank by test AUC among the methods run at that budget (1 is the best), over the data sets and models in "
        "brackets; then the mean difference from the full table of the same seeds. Ranks are within a data set, and "
        "a method that was not run on all of them was ranked among others.",
        columns_of("Table", *budgets, text=("Table",)),
        rows,
    )


def _mean_rank(found: Mapping[str, Sequence[tuple[float, float | None]]]) -> float:
    ranks = [rank for held in found.values() for rank, _ in held]
    return math.fsum(ranks) / len(ranks)


def _by_budget(section: Section) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in section.cells:
        if cell.budget is not None:
            found.setdefault(cell.budget, []).append(cell)
    return found


def _rank(cell: Cell, cells: Sequence[Cell]) -> float:
    """From 1; equal AUCs share the mean of their places."""
    above = sum(other.auc.mean > cell.auc.mean for other in cells)
    level = sum(other.auc.mean == cell.auc.mean for other in cells)
    return above + (level + 1) / 2


def _lost(section: Section, cell: Cell) -> float | None:
    change = None if section.full is None else cell.difference(section.full)
    return None if change is None else change.mean


def _value(found: Sequence[tuple[float, float | None]]) -> Value:
    if not found:
        return Value(fmt.MISSING)
    rank = math.fsum(rank for rank, _ in found) / len(found)
    losses = [lost for _, lost in found if lost is not None]
    lost = f", {fmt.number(math.fsum(losses) / len(losses))}" if losses else ""
    return Value(f"{rank:.1f} ({len(found)}){lost}", rank)

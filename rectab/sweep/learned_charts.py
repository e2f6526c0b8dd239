"""The report's charts of what tables learned, drawn by kind of finding (:mod:`rectab.tables.findings`).

Means over seeds, except for grids and for curves of several lines, which are those of one run: their lines need not
mean the same in another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rectab.sweep.analysis import Cell, Section
from rectab.sweep.charts import NUM_SERIES

__all__ = ["LearnedChart", "learned_charts"]

Learned = Mapping[str, Any]
"""The findings of each run, as plain data, by the run's hash."""

Tip = Callable[[str, str, float], str]
"""Tooltip of a cell of a heat map from the labels of its column and row, and its value."""

_CURVE_HEIGHT = 230

_CELL = 0.96  # of a heat map, of the distance between two


@dataclass(frozen=True)
class LearnedChart:
    """A chart and what it shows.

    Attributes:
        key: of the element in the page, with the section's key before it.
        method: whose it is, by its name in the report.
        title, note: above and below it.
        height: in CSS pixels.
        figure: for plotly.js; colours are named as in :mod:`rectab.sweep.charts`.
    """

    key: str
    method: str
    title: str
    note: str
    height: int
    figure: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    """One finding of a method, in every cell that has it, largest first.

    Attributes:
        title: of the finding.
        color: of the method.
        cells: (cell, the finding of each of its runs by ascending seed).
    """

    title: str
    color: str
    cells: tuple[tuple[Cell, list[dict[str, Any]]], ...]

    @property
    def first(self) -> dict[str, Any]:
        """That of the lowest seed of the largest table."""
        return self.cells[0][1][0]

    @property
    def example(self) -> str:
        """Which run that is."""
        cell = self.cells[0][0]
        return f"{_label(cell)}, seed {min(cell.rows)}"

    def means(self) -> tuple[list[str], list[list[float]]]:
        """Labels of the cells, and the means of their values over seeds."""
        labels, rows = [], []
        for cell, runs in self.cells:
            values = [run["values"]["values"] for run in runs]
            labels.append(_label(cell))
            rows.append([math.fsum(column) / len(values) for column in zip(*values, strict=True)])
        return labels, rows


def learned_charts(section: Section, learned: Learned, styles: Mapping[str, Mapping[str, str]]) -> list[LearnedChart]:
    """The charts of every method of the section whose runs learned something; none where there is nothing to draw."""
    charts = []
    for number, method in enumerate(section.methods):
        for found in _findings_of(section.cells_of(method), learned, styles[method]["color"]):
            note, height, figure = _DRAW[found.first["kind"]](found)
            slug = re.sub("[^a-z]+", "-", found.title.lower()).strip("-")
            charts.append(LearnedChart(f"learned-{number}-{slug}", method, found.title, note, height, figure))
    return charts


def _findings_of(cells: Sequence[Cell], learned: Learned, color: str) -> list[_Found]:
    """By title, in the order in which the largest table has them."""
    by_title: dict[str, list[tuple[Cell, list[dict[str, Any]]]]] = {}
    for cell in reversed(cells):
        runs = [learned.get(row["hash"]) for _, row in sorted(cell.rows.items())]
        lists = [run for run in runs if isinstance(run, list)]  # runs of before there were findings are not drawn
        for title in dict.fromkeys(finding["title"] for run in lists for finding in run):
            same = [finding for run in lists for finding in run if finding["title"] == title]
            by_title.setdefault(title, []).append((cell, same))
    return [_Found(title, color, tuple(cells)) for title, cells in by_title.items()]


def _label(cell: Cell) -> str:
    return cell.budget or "no budget"


def _draw_deciles(found: _Found) -> tuple[str, int, dict[str, Any]]:
    """A row for each size."""
    (labels, values), unit = found.means(), found.first["values"]["unit"]
    tenths = [str(tenth) for tenth in range(1, 11)]
    tip: Tip = lambda x, y, z: f"{y}, tenth {x}: {z:.3g} % of {unit}"  # noqa: E731
    return found.first["note"], _height(len(labels)), _heat_map(_percent(values), tenths, labels, found.color, 100, tip)


def _draw_vocabularies(found: _Found) -> tuple[str, int, dict[str, Any]]:
    """Fields down, sizes across: field names are long and many."""
    (labels, values), told = found.means(), found.first["values"]
    names, unit = told["names"], f"% of {told['unit']}" if told["share"] else told["unit"]
    values = _percent(values) if told["share"] else values
    largest = 100 if told["share"] else max(1, math.ceil(max(map(max, values))))
    across = [list(column) for column in zip(*values, strict=True)]
    tip: Tip = lambda x, y, z: f"{y} at {x}: {z:.3g} {unit}"  # noqa: E731
    digits = 0 if told["share"] or all(value == int(value) for row in across for value in row) else 1
    figure = _heat_map(across, labels, names, found.color, largest, tip, digits=digits)
    return found.first["note"], _height(len(names)), figure


def _draw_grid(found: _Found) -> tuple[str, int, dict[str, Any]]:
    told = found.first["values"]
    tip: Tip = lambda x, y, z: f"{y}, {x}: {told['unit']} {z:.2f}"  # noqa: E731
    largest = told.get("largest", 1)  # grids of before there was one are in 0..1
    figure = _heat_map(told["values"], told["columns"], told["rows"], found.color, largest, tip, digits=1)
    return _of_one_run(found), _height(len(told["rows"])), figure


def _draw_curve(found: _Found) -> tuple[str, int, dict[str, Any]]:
    """Several lines of one run, or one line of every size."""
    told = found.first["values"]
    axes = told["x"], told["y"]
    if len(told["names"]) > 1:
        return _of_one_run(found), _CURVE_HEIGHT, _lines(told["steps"], told["values"], told["names"], *axes)
    runs = [(_label(cell), findings[0]["values"]) for cell, findings in found.cells]
    steps = sorted({step for _, run in runs for step in run["steps"]})
    lines = [dict(zip(run["steps"], (value for (value,) in run["values"]), strict=True)) for _, run in runs]
    rows = [[line.get(step) for line in lines] for step in steps]
    return found.first["note"], _CURVE_HEIGHT, _lines(steps, rows, [label for label, _ in runs], *axes)


_DRAW: dict[str, Callable[[_Found], tuple[str, int, dict[str, Any]]]] = {
    "by decile": _draw_deciles,
    "by vocabulary": _draw_vocabularies,
    "grid": _draw_grid,
    "curve": _draw_curve,
}


def _of_one_run(found: _Found) -> str:
    return f"{found.first['note'].rstrip('.')} ({found.example})."


def _percent(values: list[list[float]]) -> list[list[float]]:
    return [[100 * value for value in row] for row in values]


def _height(rows: int) -> int:
    return 70 + 22 * max(rows, 3)


def _heat_map(
    values: Sequence[Sequence[float]],
    columns: Sequence[str],
    rows: Sequence[str],
    color: str,
    largest: float,
    tip: Tip,
    digits: int = 0,
) -> dict[str, Any]:
    """A heat map whose first row is on top, numbers in the cells. Ticks are numbered, as labels may repeat. A cell is a
    bar: the charts of the page's library are points, lines and bars."""
    across, down = list(map(escape, columns)), list(map(escape, rows))
    cells = [(x, y, z) for y, row in enumerate(values) for x, z in enumerate(row)]
    trace = {
        "type": "bar",
        "x": [x for x, _, _ in cells],
        "y": [_CELL for _ in cells],
        "base": [y - _CELL / 2 for _, y, _ in cells],
        "width": _CELL,
        "marker": {
            "color": [z for _, _, z in cells],
            "cmin": 0,
            "cmax": largest,
            "colorscale": [[0, "var(--soft)"], [1, color]],
            "showscale": False,
        },
        "text": [f"{z:.{digits}f}" for _, _, z in cells],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertext": [tip(across[x], down[y], z) for x, y, z in cells],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    layout = {
        "barmode": "overlay",
        "xaxis": {"tickvals": list(range(len(columns))), "ticktext": across, "showgrid": False, "tickangle": 0},
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": down,
            "showgrid": False,
            "range": [len(rows) - 0.5, -0.5],
        },
    }
    return {"data": [trace], "layout": layout}


def _lines(
    steps: Sequence[int], values: Sequence[Sequence[float | None]], names: Sequence[str], x_title: str, y_title: str
) -> dict[str, Any]:
    """A line for each name, with the name at its end where they are few; the palette goes round."""
    labelled = len(names) <= NUM_SERIES
    traces = []
    for index, name in enumerate(map(escape, names)):
        line = [row[index] for row in values]
        last = max((i for i, value in enumerate(line) if value is not None), default=-1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+text" if labelled else "lines",
                "name": name,
                "x": list(steps),
                "y": line,
                "text": [name if i == last else "" for i in range(len(line))],
                "textposition": "top left",
                "textfont": {"color": (color := f"var(--series-{index % NUM_SERIES + 1})"), "size": 11},
                "line": {"color": color, "width": 1.5},
                "hovertemplate": f"{name}: %{{y:.4~f}} at {x_title} %{{x}}<extra></extra>",
            }
        )
    return {"data": traces, "layout": {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}}}

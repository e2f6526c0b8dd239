"""The report's charts of what tables learned about their shape: which rows they kept, how wide, and how they got there.

Drawn from ``result["learned"]`` of the run files, whichever keys a method has there. Means over seeds, except for the
soft selection and the curves over training, which are those of one run: dimensions have no identity across seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from rectab.sweep.analysis import Cell, Section
from rectab.sweep.charts import NUM_SERIES

__all__ = ["LearnedChart", "learned_charts"]

Learned = Mapping[str, Mapping[str, Any]]
"""What each run learned, by the run's hash."""

Tip = Callable[[str, str, float], str]
"""Tooltip of a cell of a heat map from the labels of its column and row, and its value."""


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
class _Group:
    """The runs of one method that learned something: its cells, largest first, and what their runs learned."""

    method: str
    color: str
    cells: tuple[tuple[Cell, list[Mapping[str, Any]]], ...]

    def mean(self, pick: Callable[[Mapping[str, Any]], Sequence[float] | None]) -> tuple[list[str], list[list[float]]]:
        """Labels of the cells that have the numbers, and their means over seeds."""
        labels, rows = [], []
        for cell, runs in self.cells:
            picked = [values for values in map(pick, runs) if values]
            if picked:
                labels.append(_label(cell))
                rows.append([math.fsum(column) / len(picked) for column in zip(*picked, strict=True)])
        return labels, rows

    @property
    def example(self) -> tuple[str, Mapping[str, Any]]:
        """One run: the lowest seed of the largest table."""
        cell, runs = self.cells[0]
        return f"{_label(cell)}, seed {min(cell.rows)}", runs[0]


def learned_charts(section: Section, learned: Learned, styles: Mapping[str, Mapping[str, str]]) -> list[LearnedChart]:
    """The charts of every method of the section whose runs learned something; none where there is nothing to draw."""
    charts = []
    for number, method in enumerate(section.methods):
        cells = []
        for cell in reversed(section.cells_of(method)):
            runs = [learned[row["hash"]] for _, row in sorted(cell.rows.items()) if learned.get(row["hash"])]
            if runs:
                cells.append((cell, runs))
        if cells:
            group = _Group(method, styles[method]["color"], tuple(cells))
            drawn = [
                make(group) for make in (_deciles, _widths, _kept_rows, _alpha, _alpha_curve, _thresholds, _search)
            ]
            charts += [_numbered(chart, number) for chart in drawn if chart is not None]
    return charts


def _numbered(chart: LearnedChart, number: int) -> LearnedChart:
    return replace(chart, key=f"learned-{number}-{chart.key}")


def _label(cell: Cell) -> str:
    return cell.budget or "no budget"


def _deciles(group: _Group) -> LearnedChart | None:
    """Share kept in every tenth of the ids, a row for each size."""
    rows_kept = group.mean(lambda run: run.get("kept_rows_by_frequency_decile"))
    labels, values = rows_kept if rows_kept[0] else group.mean(lambda run: run.get("kept_by_frequency_decile"))
    if not labels:
        return None
    what = "rows" if rows_kept[0] else "entries"
    tenths = [str(tenth) for tenth in range(1, 11)]
    figure = _heat_map(
        _percent(values), tenths, labels, group.color, 100, lambda x, y, z: f"{y}, tenth {x}: {z:.3g} % of {what}"
    )
    return LearnedChart(
        "deciles",
        group.method,
        f"{what.capitalize()} kept by id frequency",
        f"Per cent of the {what} kept in every tenth of the ids, the most frequent tenth on the left.",
        _height(len(labels)),
        figure,
    )


def _widths(group: _Group) -> LearnedChart | None:
    names = _vocabularies(group)
    labels, values = group.mean(lambda run: _effective_widths(run, names))
    if not labels:
        return None
    largest = max(1, math.ceil(max(map(max, values))))
    figure = _by_field(values, labels, names, group.color, largest, lambda x, y, z: f"{y} at {x}: {z:.3g} dimensions")
    note = "Dimensions that the rows of every vocabulary keep; 0 where it keeps no row."
    return LearnedChart("widths", group.method, "Dimensions per field", note, _height(len(names)), figure)


def _kept_rows(group: _Group) -> LearnedChart | None:
    names = _vocabularies(group)
    labels, values = group.mean(lambda run: [run["kept_rows"][n] for n in names] if "kept_rows" in run else None)
    if not labels:
        return None
    figure = _by_field(
        _percent(values), labels, names, group.color, 100, lambda x, y, z: f"{y} at {x}: {z:.3g} % of rows"
    )
    note = "Per cent of every vocabulary's rows."
    return LearnedChart("kept", group.method, "Rows kept per field", note, _height(len(names)), figure)


def _alpha(group: _Group) -> LearnedChart | None:
    label, run = group.example
    alpha = run.get("alpha")
    if not alpha:
        return None
    dims = [str(dim) for dim in range(1, len(alpha[0]) + 1)]
    figure = _heat_map(
        alpha, dims, _blocks(run), group.color, 1, lambda x, y, z: f"ids {y}, dimension {x}: alpha {z:.2f}", digits=1
    )
    note = f"Alpha at the end of the search, a row for each block of ids, by dimension ({label})."
    return LearnedChart("alpha", group.method, "Soft selection", note, _height(len(alpha)), figure)


def _alpha_curve(group: _Group) -> LearnedChart | None:
    label, run = group.example
    curve = run.get("alpha_curve")
    if not curve or not curve["steps"]:
        return None
    figure = _lines(curve["steps"], curve["values"], _blocks(run), "step", "mean alpha")
    figure["layout"]["yaxis"] |= {"range": [-0.02, 1.02]}
    note = f"Mean over dimensions of every block's alpha, by step of the search ({label})."
    return LearnedChart("alpha-curve", group.method, "Selection over the search", note, 230, figure)


def _thresholds(group: _Group) -> LearnedChart | None:
    label, run = group.example
    curve = run.get("threshold_curve")
    if not curve or not curve["steps"]:
        return None
    figure = _lines(curve["steps"], curve["values"], curve["vocabularies"], "step", "threshold")
    note = f"Threshold on the L1 norm of rows by training step, a line for each vocabulary ({label})."
    return LearnedChart("thresholds", group.method, "Thresholds over training", note, 230, figure)


def _search(group: _Group) -> LearnedChart | None:
    histories = [
        (_label(cell), history)
        for cell, runs in group.cells
        if (history := runs[0].get("search", {}).get("best_fitness"))
    ]
    if not histories:
        return None
    steps = list(range(1, max(len(history) for _, history in histories) + 1))
    columns = [[history[i] if i < len(history) else None for _, history in histories] for i in range(len(steps))]
    figure = _lines(steps, columns, [label for label, _ in histories], "generation", "fitness")
    note = "Best fitness so far on the half of validation that the search learns from, lowest seed of every size."
    return LearnedChart("search", group.method, "Search for dimensions", note, 230, figure)


def _vocabularies(group: _Group) -> list[str]:
    return list(group.example[1].get("kept_rows", {}))


def _effective_widths(run: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    widths, kept = run.get("widths"), run.get("kept_rows", {})
    return [widths[name] if kept.get(name, 1) else 0 for name in names] if widths else None


def _blocks(run: Mapping[str, Any]) -> list[str]:
    """Names of blocks: the share of ids up to and including each."""
    total, ends, end = sum(run["block_sizes"]) or 1, [], 0
    for size in run["block_sizes"]:
        ends.append((end, end + size))
        end += size
    return [f"{100 * a / total:.0f}–{100 * b / total:.0f} %" for a, b in ends]


def _percent(values: list[list[float]]) -> list[list[float]]:
    return [[100 * value for value in row] for row in values]


def _height(rows: int) -> int:
    return 70 + 22 * max(rows, 3)


def _by_field(
    values: list[list[float]], labels: list[str], names: list[str], color: str, largest: float, tip: Tip
) -> dict[str, Any]:
    """Fields down, sizes across: field names are long and many."""
    across = [list(column) for column in zip(*values, strict=True)]
    return _heat_map(across, labels, names, color, largest, tip)


def _heat_map(
    values: Sequence[Sequence[float]],
    columns: Sequence[str],
    rows: Sequence[str],
    color: str,
    largest: float,
    tip: Tip,
    digits: int = 0,
) -> dict[str, Any]:
    """A heat map whose first row is on top, numbers in the cells. Ticks are numbered, as labels may repeat."""
    across, down = list(map(escape, columns)), list(map(escape, rows))
    trace = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "z": [list(row) for row in values],
        "zmin": 0,
        "zmax": largest,
        "colorscale": [[0, "var(--soft)"], [1, color]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "text": [[f"{z:.{digits}f}" for z in row] for row in values],
        "texttemplate": "%{text}",
        "hovertext": [
            [tip(x, y, z) for x, z in zip(across, row, strict=True)] for y, row in zip(down, values, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    layout = {
        "xaxis": {"tickvals": trace["x"], "ticktext": across, "showgrid": False, "tickangle": 0},
        "yaxis": {"tickvals": trace["y"], "ticktext": down, "showgrid": False, "autorange": "reversed"},
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

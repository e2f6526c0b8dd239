"""The charts of the report, as plotly.js figures in plain data.

Colours are named, not given: ``var(--series-1)`` and the like are looked up in the page's style sheet, so that a chart
follows the light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.results import SLICES
from rectab.sweep.statistics import Estimate

__all__ = ["NUM_SERIES", "auc_against_bytes", "bytes_axis", "method_styles", "ndcg_against_bytes", "slice_charts"]

NUM_SERIES = 8
"""Colours of the palette besides the full table's; further methods reuse them with another symbol."""

_SYMBOLS = {
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "cross": "✚",
    "x": "✖",
    "star": "★",
}
"""Symbols of plotly.js, and the characters that stand for them in legends and tables."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def method_styles(sections: list[Section]) -> dict[str, dict[str, str]]:
    """Colour, symbol and dash by method, the same all over the report. The full table's colour is its own."""
    full = {section.full.method for section in sections if section.full is not None}
    names = dict.fromkeys(row["method"] for section in sections for row in section.rows)
    styles = {}
    others = [name for name in names if name not in full]
    symbols = list(_SYMBOLS)
    for name in full:
        styles[name] = {"color": "var(--series-full)", "symbol": "circle", "sign": "●", "dash": "solid"}
    for position, name in enumerate(others):
        styles[name] = {
            "color": f"var(--series-{position % NUM_SERIES + 1})",
            "symbol": (symbol := symbols[position % len(symbols)]),
            "sign": _SYMBOLS[symbol],
            "dash": _DASHES[position // NUM_SERIES % len(_DASHES)],
        }
    return styles


def ndcg_against_bytes(section: Section, styles: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Test NDCG of rankings over achieved serving bytes, as :func:`auc_against_bytes`; every cell has it."""
    traces = []
    for method in section.methods:
        cells = section.cells_of(method)
        tips = [f"{_tooltip(section, cell)}<br>NDCG {fmt.with_interval(_ndcg(cell))}" for cell in cells]
        traces.append(_trace(method, cells, [_ndcg(cell) for cell in cells], tips, styles[method]))
    layout = _layout(section, f"test NDCG@{section.cells[0].any_row['list_length']}")
    layout["shapes"] = [] if section.full is None else _band(_ndcg(section.full))
    layout["yaxis"] |= {"tickformat": ".4~f"}
    return {"data": traces, "layout": layout}


def _ndcg(cell: Cell) -> Estimate:
    value = cell.estimate("ndcg")
    assert value is not None
    return value


def auc_against_bytes(
    section: Section, styles: dict[str, dict[str, str]], best_auc: float | None, methods: Sequence[str] | None = None
) -> dict[str, Any]:
    """Test AUC over achieved serving bytes on a logarithmic axis, with intervals over seeds.

    The full table is a point and a band; the best possible AUC is a line. Of a chart of some ``methods``, the axes are
    those of all, so that charts can be laid side by side.
    """
    traces = []
    full = section.full.method if section.full else None
    for method in section.methods if methods is None else [m for m in section.methods if m in (full, *methods)]:
        cells = section.cells_of(method)
        tips = [_tooltip(section, cell) for cell in cells]
        traces.append(_trace(method, cells, [cell.auc for cell in cells], tips, styles[method]))
    # The axis follows the points: intervals of few seeds are many times as wide, and would leave a flat line of them.
    means = [cell.auc.mean for cell in section.cells]
    bottom, top = min(means), max(means)
    span = max(top - bottom, 1e-4)
    layout = _layout(section, "test AUC")
    layout["shapes"], layout["annotations"] = [], []
    if section.full is not None:
        layout["shapes"] += _band(section.full.auc)
    if best_auc is not None:
        if best_auc - top <= 2 * span:
            top = max(top, best_auc)
            line = {"color": "var(--best)", "width": 1.5, "dash": "dash"}
            layout["shapes"].append(_horizontal(best_auc, best_auc) | {"type": "line", "line": line})
            text, y, anchor = f"best possible {best_auc:.4f}", best_auc, "bottom"
        else:
            text, y, anchor = f"↑ best possible {best_auc:.4f}, above this chart", top, "bottom"
        layout["annotations"].append(
            {"xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": anchor, "text": text, "showarrow": False}
            | {"font": {"color": "var(--best)", "size": 12}}
        )
    span = max(top - bottom, 1e-4)
    layout["yaxis"] |= {"range": [bottom - 0.1 * span, top + 0.14 * span], "tickformat": ".4~f"}
    return {"data": traces, "layout": layout}


def slice_charts(section: Section, styles: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """One small chart per slice of ids: paired AUC difference from the full table over bytes. One scale for all."""
    reference = section.full
    if reference is None:
        return []
    charts: list[dict[str, Any]] = []
    values = [0.0]
    for name in SLICES:
        traces = []
        for method in section.methods:
            points = [
                (cell, change)
                for cell in section.cells_of(method)
                if cell is not reference and (change := cell.difference(reference, f"auc_{name}")) is not None
            ]
            if not points:
                continue
            values += [change.mean for _, change in points]
            cells, changes = [cell for cell, _ in points], [change for _, change in points]
            tips = [
                f"<b>{escape(_named(cell))}</b><br>{name} ids: {fmt.difference(change)} AUC<br>"
                + fmt.size(cell.serving_bytes)
                for cell, change in points
            ]
            traces.append(_trace(method, cells, changes, tips, styles[method]))
        if traces:
            layout = _layout(section, "AUC − full")
            layout["shapes"] = [_horizontal(0, 0) | {"type": "line", "line": {"color": "var(--muted)", "width": 1}}]
            charts.append({"slice": name, "rows": _slice_rows(section, name), "data": traces, "layout": layout})
    margin = 0.1 * max(max(values) - min(values), 1e-4)
    for chart in charts:
        chart["layout"]["yaxis"] |= {"range": [min(values) - margin, max(values) + margin], "tickformat": "+.4~f"}
        chart["layout"]["compact"] = True
    return charts


def _named(cell: Cell) -> str:
    return f"{cell.method} at {cell.budget}" if cell.budget else cell.method


def _tooltip(section: Section, cell: Cell) -> str:
    seeds = f"{cell.auc.n} seed{'s' if cell.auc.n != 1 else ''}"
    lines = [
        f"<b>{escape(_named(cell))}</b>",
        f"AUC {fmt.with_interval(cell.auc)} ({seeds})",
        f"{fmt.size(cell.serving_bytes)}, {fmt.share(cell.ratio)} of full",
    ]
    if section.full is not None and cell is not section.full:
        lines.append(f"against full: {fmt.difference(cell.difference(section.full))}")
    return "<br>".join(lines)


def _trace(
    method: str, cells: list[Cell], estimates: list[Estimate], tips: list[str], style: dict[str, str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": method,
        "x": [cell.serving_bytes for cell in cells],
        "y": [value.mean for value in estimates],
        "error_y": {
            "type": "data",
            "array": [value.half_width or 0 for value in estimates],
            "color": style["color"],
            "thickness": 1.2,
            "width": 4,
        },
        "marker": {"color": style["color"], "symbol": style["symbol"], "size": 9},
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "text": tips,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _layout(section: Section, title: str) -> dict[str, Any]:
    axis = bytes_axis([cell.serving_bytes for cell in section.cells], section.full_bytes)
    return {"xaxis": axis, "yaxis": {"title": {"text": title}}}


def bytes_axis(sizes: Sequence[float], full_bytes: int) -> dict[str, Any]:
    """A logarithmic axis over ``sizes``, labelled with shares of the full table and with bytes."""
    shares = _tick_shares(min(sizes) / full_bytes, max(sizes) / full_bytes)
    ticks = [share * full_bytes for share in shares]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    margin = max(0.04 * (high - low), 0.05)
    return {
        "type": "log",
        "range": [low - margin, high + margin],
        "tickvals": ticks,
        "ticktext": [f"{100 * share:g}%<br>{_tick_size(tick)}" for share, tick in zip(shares, ticks, strict=True)],
    }


def _tick_size(size: float) -> str:
    """Two or three digits: ``131 KiB``, ``2.6 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if size >= 10 else f"{size:.2g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _tick_shares(smallest: float, largest: float) -> list[float]:
    """Round shares of the full table to label, at most seven."""
    lowest, highest = math.floor(math.log10(smallest)), math.ceil(math.log10(largest))
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        every = [m * 10.0**e for e in range(lowest - 1, highest + 1) for m in mantissas]
        ticks = [tick for tick in every if smallest * 0.9 <= tick <= largest * 1.1]
        if len(ticks) <= 7:
            break
    return ticks or [smallest, largest]


def _horizontal(low: float, high: float) -> dict[str, Any]:
    return {"xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}


def _band(value: Estimate) -> list[dict[str, Any]]:
    line = {"color": "var(--series-full)", "width": 1, "dash": "dot"}
    middle = _horizontal(value.mean, value.mean) | {"type": "line", "line": line}
    filled = {"type": "rect", "line": {"width": 0}, "fillcolor": "var(--band)"}
    return [_horizontal(value.low, value.high) | filled, middle]


def _slice_rows(section: Section, name: str) -> int | None:
    """Test rows of a slice: the same for every run."""
    return next((row[f"rows_{name}"] for row in section.rows if row[f"rows_{name}"] is not None), None)

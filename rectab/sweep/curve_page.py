"""The picture of ``rectab compress``: validation AUC against bytes, as measured and as predicted."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from rectab.atomic_file import write_atomic
from rectab.sweep import formatting as fmt
from rectab.sweep.charts import bytes_axis
from rectab.sweep.pages import assets, template
from rectab.training.compress.curve import Curve, Point

__all__ = ["PAGE", "curve_figure", "write_curve_page"]

PAGE = "curve.html"


def write_curve_page(curve: Curve, folder: Path) -> Path:
    """Write ``curve.html`` into ``folder``; it opens offline."""
    content = {"curve": curve, "points": _ordered(curve), "charts": {"curve": curve_figure(curve)}, "fmt": fmt}
    write_atomic(folder / PAGE, template("curve.html.j2").render(content, **assets()))
    return folder / PAGE


def curve_figure(curve: Curve) -> dict[str, Any]:
    """For plotly.js: the measured line, the predicted line, every width where there are several, the full model."""
    points = _ordered(curve)
    full = curve.sources[0].valid["auc"]
    traces = [
        _trace("measured", points, [p.valid["auc"] for p in points], "var(--series-1)", "circle", "solid"),
        _trace("predicted", points, [p.expected["auc"] for p in points], "var(--series-2)", "diamond", "dash"),
    ]
    if len(curve.sources) > 1:
        traces += [_of_width(curve, source.embedding_dim, index) for index, source in enumerate(curve.sources)]
    heights = [full, *(y for trace in traces for y in trace["y"])]
    span = max(max(heights) - min(heights), 1e-4)
    line = {"color": "var(--series-full)", "width": 1, "dash": "dot"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": full, "y1": full, "layer": "below", "line": line}
    sizes = [size for trace in traces for size in trace["x"]]
    axis = {"title": {"text": "validation AUC"}, "tickformat": ".4~f"}
    axis["range"] = [min(heights) - 0.1 * span, max(heights) + 0.14 * span]
    return {
        "data": traces,
        "layout": {"xaxis": bytes_axis(sizes, curve.full_bytes), "yaxis": axis, "shapes": [shape]},
    }


def _ordered(curve: Curve) -> list[Point]:
    return sorted(curve.points, key=lambda point: point.serving_bytes)


def _trace(name: str, points: list[Point], heights: list[float], color: str, symbol: str, dash: str) -> dict[str, Any]:
    tips = [
        f"<b>{escape(p.budget)}, {name}</b><br>AUC {fmt.number(height, 5)}<br>{fmt.size(p.serving_bytes)}, "
        f"{fmt.share(p.share)} of full<br>id map {fmt.size(p.map_bytes)}<br>embedding_dim {p.embedding_dim}"
        for p, height in zip(points, heights, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [p.serving_bytes for p in points],
        "y": heights,
        "marker": {"color": color, "symbol": symbol, "size": 9},
        "line": {"color": color, "dash": dash, "width": 2},
        "text": tips,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _of_width(curve: Curve, width: int, index: int) -> dict[str, Any]:
    """What one width reached at every budget, chosen or not."""
    tried = [(p, a) for p in _ordered(curve) for a in p.attempts if a.embedding_dim == width and a.valid is not None]
    color = f"var(--series-{index % 6 + 3})"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"embedding_dim {width}",
        "x": [a.serving_bytes for _, a in tried],
        "y": [a.valid["auc"] for _, a in tried if a.valid],
        "marker": {"color": color, "symbol": "x", "size": 6},
        "line": {"color": color, "dash": "dot", "width": 1},
        "text": [
            f"<b>{escape(p.budget)}, embedding_dim {width}</b><br>AUC {fmt.number(a.valid['auc'], 5)}"
            for p, a in tried
            if a.valid
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }

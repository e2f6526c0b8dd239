"""Times of tables from ``bench/test_bench_tables.py``, joined to a sweep's AUC: quality, bytes and time in one figure.

The times are of tables of one fixed workload, not of the sweep's data set: they compare methods with each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.report_values import Column, ReportTable, Value, cell_head, estimate_value

__all__ = ["Times", "TimesByCell", "auc_against_time", "read_times", "timing_table"]

_WHAT = {"test_table_lookup": "lookup", "test_table_step": "step"}
_SMALLEST, _LARGEST = 9.0, 34.0  # of markers, in CSS pixels


@dataclass(frozen=True)
class Times:
    """Median milliseconds of a batch.

    Attributes:
        lookup, step: of the table alone.
        workload: what was timed, in words.
    """

    lookup: float
    step: float
    workload: str


TimesByCell = Mapping[tuple[str, str | None], Times]
"""By (method, budget; None for a table without one)."""


def read_times(path: Path | str) -> TimesByCell:
    """From a file of ``make bench``.

    Raises:
        ValueError: the file is not one of pytest-benchmark, or has no times of tables.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `make bench` writes one")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError(f"{path}: not a result of pytest-benchmark") from None
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for entry in entries:
        what = _WHAT.get(entry["name"].partition("[")[0])
        if what is not None:
            info = entry["extra_info"]
            times = found.setdefault((info["method"], info["budget"]), {"workload": _workload(info)})
            times[what] = entry["stats"]["median"] * 1e3
    complete = {key: Times(**times) for key, times in found.items() if set(_WHAT.values()) <= times.keys()}
    if not complete:
        raise ValueError(f"{path}: no times of tables; run `make bench` (bench/test_bench_tables.py)")
    return complete


def _workload(info: Mapping[str, Any]) -> str:
    return (
        f"{fmt.rate(info['num_rows'])} ids, {info['num_features']} features, D = {info['row_dim']}, batch "
        f"{info['batch_size']}, {info['threads']} threads, {info['kernel']} kernels, {info['gradient']} gradients"
    )


def _joined(section: Section, times: TimesByCell) -> list[tuple[Cell, Times]]:
    timed = [(cell, times.get((cell.any_row["table"], cell.budget))) for cell in section.cells]
    return [(cell, found) for cell, found in timed if found is not None]


def auc_against_time(
    section: Section, styles: Mapping[str, Mapping[str, str]], times: TimesByCell
) -> dict[str, Any] | None:
    """Test AUC over the time of a step; the area of a marker is the table's bytes. None if no cell was timed."""
    joined = _joined(section, times)
    if not joined:
        return None
    largest = max(cell.serving_bytes for cell, _ in joined)
    traces = []
    for cell, found in joined:
        style = styles[cell.method]
        size = max(_SMALLEST, _LARGEST * math.sqrt(cell.serving_bytes / largest))
        tip = (
            f"<b>{escape(cell.method)}</b><br>AUC {fmt.with_interval(cell.auc)}<br>{fmt.size(cell.serving_bytes)}<br>"
            f"step {found.step:.2f} ms, lookup {found.lookup:.2f} ms"
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": cell.method,
                "x": [found.step],
                "y": [cell.auc.mean],
                "error_y": {"type": "data", "array": [cell.auc.half_width or 0], "color": style["color"], "width": 4},
                "marker": {"color": style["color"], "symbol": style["symbol"], "size": size, "opacity": 0.75},
                "text": [tip],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "milliseconds of a training step of the table"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "test AUC"}, "tickformat": ".4~f"},
    }
    return {"data": traces, "layout": layout}


def timing_table(section: Section, times: TimesByCell) -> ReportTable:
    """The same in numbers."""
    joined = _joined(section, times)
    rows = []
    for cell, found in joined:
        method, budget, size, _ = cell_head(cell)
        milliseconds = [Value(f"{value:.2f} ms", value) for value in (found.lookup, found.step)]
        rows.append([method, budget, size, estimate_value(cell.auc), *milliseconds])
    workloads = ", ".join(dict.fromkeys(found.workload for _, found in joined))
    titles = (("Table", False), ("Budget", False), ("Bytes", True), ("AUC", True), ("Lookup", True), ("Step", True))
    return ReportTable(
        "timing",
        "Quality, bytes and time",
        f"AUC and bytes are the sweep's, times are medians of the table alone on another workload: {workloads}. "
        "Lookups are of the served table; the step of a table that is trained in stages is one of its first stage.",
        tuple(Column(title, numeric) for title, numeric in titles),
        rows,
    )

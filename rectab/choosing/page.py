"""The report of a choice: the recommendation, its price and the picture on one screen, all else folded."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from rectab.atomic_file import write_atomic
from rectab.choosing.answer import Answer
from rectab.choosing.candidates import Candidate, Field
from rectab.choosing.record import Measured, Record
from rectab.choosing.verdict import Compared
from rectab.sweep import formatting as fmt
from rectab.sweep.charts import bytes_axis
from rectab.sweep.pages import assets, template

__all__ = ["PAGE", "write_page"]

PAGE = "report.html"


def write_page(answer: Answer, field: Field, record: Record, title: str, folder: Path) -> Path:
    """Write ``report.html``; it opens offline."""
    candidates = {c.key: c for c in (*field.encoded, *field.small, *([field.full] if field.full else []))}
    rows = _rows(record, candidates)
    content: dict[str, Any] = {
        "title": title,
        "answer": answer,
        "compared": _compared(answer),
        "rows": rows,
        "lines": record.lines,
        "ruled_out": field.ruled_out,
        "failed": [(_label(candidates, key), reason) for key, reason in record.failed.items()],
        "charts": {"choice": _figure(answer, rows, _full_auc(record))},
        "signed": _signed,
        "fmt": fmt,
    }
    write_atomic(folder / PAGE, template("choice.html.j2").render(content, **assets()))
    return folder / PAGE


def _compared(answer: Answer) -> list[tuple[str, Compared]]:
    told: list[tuple[str, Compared | None]] = [(answer.winner.label, answer.test)]
    told.append(("less the full table", answer.against_full))
    if answer.runner_up is not None:
        told.append((f"less {answer.runner_up.label}", answer.against_runner_up))
    return [(name, value) for name, value in told if value is not None]


def _signed(value: Compared) -> str:
    return f"{value.mean:+.4f} ± {value.half_width:.4f}" + ("" if value.decided else ", not told apart")


def _label(candidates: dict[str, Candidate], key: str) -> str:
    return candidates[key].label if key in candidates else key


def _rows(record: Record, candidates: dict[str, Candidate]) -> list[dict[str, Any]]:
    """A row a candidate and part, the best first."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in record.measured:
        groups.setdefault((one.candidate, one.part), []).append(one)
    rows = [
        {
            "key": key,
            "label": _label(candidates, key),
            "part": part,
            "seeds": len(group),
            "auc": math.fsum(m.auc for m in group) / len(group),
            "serving_bytes": max(m.serving_bytes for m in group),
            "training_bytes": max(m.training_bytes for m in group),
            "seconds": math.fsum(m.seconds for m in group),
        }
        for (key, part), group in groups.items()
    ]
    return sorted(rows, key=lambda row: (row["part"] != "all", -row["auc"]))


def _full_auc(record: Record) -> float | None:
    """Validation AUC of the full table with seed 0."""
    return next((m.full_auc for m in record.measured if m.full_auc is not None), None)


def _figure(answer: Answer, rows: list[dict[str, Any]], full_auc: float | None) -> dict[str, Any]:
    """Validation AUC over bytes of what was trained on all rows; the answer in a colour of its own."""
    drawn = [row for row in rows if row["part"] == "all"]
    heights = [row["auc"] for row in drawn] + ([] if full_auc is None else [full_auc])
    span = max(max(heights) - min(heights), 1e-4)
    traces = []
    for row in drawn:
        won = row["key"] == answer.winner.key
        color = "var(--series-1)" if won else "var(--series-2)"
        tip = f"<b>{escape(row['label'])}</b><br>validation AUC {row['auc']:.5f}<br>{fmt.size(row['serving_bytes'])}"
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row["label"],
                "x": [row["serving_bytes"]],
                "y": [row["auc"]],
                "marker": {"color": color, "symbol": "star" if won else "circle", "size": 14 if won else 9},
                "text": [f"{tip}<br>{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    sizes = [*(row["serving_bytes"] for row in drawn), answer.full_bytes]
    axis = {"title": {"text": "validation AUC"}, "tickformat": ".4~f"}
    axis["range"] = [min(heights) - 0.1 * span, max(heights) + 0.14 * span]
    layout: dict[str, Any] = {"xaxis": bytes_axis(sizes, answer.full_bytes), "yaxis": axis}
    if full_auc is not None:
        line = {"color": "var(--series-full)", "width": 1, "dash": "dot"}
        across = {"xref": "paper", "x0": 0, "x1": 1, "y0": full_auc, "y1": full_auc, "layer": "below"}
        layout["shapes"] = [{"type": "line", "line": line, **across}]
    return {"data": traces, "layout": layout}

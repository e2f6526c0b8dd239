"""Tables of the report beside those of quality and bytes: by id frequency, time and memory, and every run."""

from __future__ import annotations

import json
from typing import Any

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Section
from rectab.sweep.report_values import (
    ReportTable,
    Value,
    cell_head,
    columns_of,
    difference_value,
    estimate_value,
    in_order,
    method_value,
    size_value,
)
from rectab.sweep.results import SLICES

__all__ = ["cost_table", "every_run", "slices_table"]


def slices_table(section: Section) -> ReportTable:
    present = [name for name in SLICES if any(cell.estimate(f"auc_{name}") for cell in section.cells)]
    reference, rows = section.full, []
    for cell in in_order(section) if present else ():
        values = []
        for name in present:
            values.append(estimate_value(cell.estimate(f"auc_{name}")))
            change = cell.difference(reference, f"auc_{name}") if reference and cell is not reference else None
            values.append(difference_value(change))
        rows.append([*cell_head(cell), *values])
    titles = [title for name in present for title in (name.capitalize(), f"{name.capitalize()} − full")]
    return ReportTable(
        "slices",
        "AUC by id frequency, in numbers",
        "AUC within each slice of test rows, and its paired difference from the full table. Slices differ in "
        "difficulty: compare down a column, not across.",
        columns_of("Table", "Budget", "Bytes", "Share", *titles),
        rows,
        folded=True,
        markdown=False,
    )


def cost_table(section: Section) -> ReportTable:
    rows = []
    for cell in in_order(section):
        seconds, speed = cell.estimate("train_seconds"), cell.estimate("samples_per_second")
        memory, training = cell.estimate("peak_memory_bytes"), cell.estimate("training_bytes")
        rows.append(
            [
                *cell_head(cell),
                size_value(training.mean if training else None),
                size_value(memory.mean if memory else None),
                Value(fmt.duration(seconds.mean if seconds else None), seconds.mean if seconds else None),
                Value(fmt.rate(speed.mean if speed else None), speed.mean if speed else None),
            ]
        )
    return ReportTable(
        "cost",
        "Time and memory of training",
        "Means over seeds. Training bytes: table, gradients, optimizer state and copy of the best weights, counted. "
        "Peak memory: of the whole process, measured. Seconds: of training steps and searches in all stages, without "
        f"evaluation, on {_circumstances(section)}.",
        columns_of(
            "Table", "Budget", "Bytes", "Share", "Training bytes", "Peak memory", "Training time", "Samples a second"
        ),
        rows,
    )


def _circumstances(section: Section) -> str:
    """Threads, device, precision, gradient layout and kernel of the rows: no time is comparable without them."""
    seen = {
        (row["threads"], row["device"], row["precision"], row["gradient"], row["kernel"])
        for row in section.rows
        if row["status"] == "ok"
    }
    parts = [
        f"{threads} thread{'s' if threads != 1 else ''} ({device}), {precision}, {gradient} gradients, {kernel} kernels"
        for threads, device, precision, gradient, kernel in sorted(seen, key=str)
    ]
    mixed = " (not all the same: compare times with care)" if len(parts) > 1 else ""
    return "; ".join(parts) + mixed


def every_run(section: Section) -> ReportTable:
    """One row per run, failures included."""
    rows = []
    for row in section.rows:
        options = json.loads(row["config"]) if row["config"] else {}
        rows.append(
            [
                method_value(row["method"]),
                Value(row["budget"] or "none", row["budget_bytes"] or -1),
                Value(str(row["seed"]), row["seed"]),
                Value(row["status"], row["status"], "" if row["status"] == "ok" else "bad"),
                size_value(row["serving_bytes"]),
                Value(fmt.number(row["auc"], 5), row["auc"]),
                Value(fmt.number(row["logloss"], 5), row["logloss"]),
                Value(fmt.duration(row["train_seconds"]), row["train_seconds"]),
                Value(", ".join(f"{key} {_short(value)}" for key, value in options.items()) or fmt.MISSING),
                Value(row["hash"]),
            ]
        )
    text = ("Table", "Budget", "Status", "Configuration", "Run file")
    titles = ("Table", "Budget", "Seed", "Status", "Bytes", "AUC", "Logloss", "Training time", *text[-2:])
    note = "Every row of results.parquet; the run file is runs/…json in the folder of the sweep."
    return ReportTable("runs", "Every run", note, columns_of(*titles, text=text), rows, folded=True, markdown=False)


def _short(value: Any, limit: int = 40) -> str:
    text = str(value)
    return text if len(text) <= limit else text[:limit] + "…"

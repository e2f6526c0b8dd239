"""What the report says of tables that were encoded after training: predicted against measured loss, width, seconds."""

from __future__ import annotations

from html import escape
from typing import Any

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.report_values import Column, ReportTable, Value, cell_head, difference_value
from rectab.sweep.statistics import estimate

__all__ = ["encoded_table", "expected_chart"]

_LEAST = 1e-5  # of a loss on a logarithmic axis


def encoded_table(section: Section) -> ReportTable:
    """One row a budget: what was predicted, what was measured, which width, how long it took."""
    rows = [_row(section, cell) for cell in _encoded_cells(section)]
    titles = (
        "Table",
        "Budget",
        "Bytes",
        "Share",
        "Width",
        "Loss predicted",
        "Loss on validation",
        "AUC − full on test",
    )
    return ReportTable(
        "encoded",
        "Encoded after training: predicted and measured",
        "The full table is trained and its vectors are encoded to each budget, with no further training. Loss: "
        "validation AUC of the full table less that of the encoded one, means over seeds; it is predicted in closed "
        "form before the table is encoded. Width: the embedding_dim that validation chose, by seed. Training: of the "
        "full table(s), shared by all budgets of a seed; encoding: option table, allocation, fits and validation.",
        tuple(Column(title, title not in ("Table", "Budget", "Width")) for title in (*titles, "Training", "Encoding")),
        rows,
    )


def _row(section: Section, cell: Cell) -> list[Value]:
    widths = ", ".join(str(row["encoded_dim"]) for _, row in sorted(cell.rows.items()))
    on_test = cell.difference(section.full) if section.full else None
    seconds = [cell.estimate(name) for name in ("train_seconds", "encoding_seconds")]
    return [
        *cell_head(cell),
        Value(widths),
        *(_loss(cell, column) for column in ("expected_valid_auc", "valid_auc")),
        difference_value(on_test),
        *(Value(fmt.duration(s.mean if s else None), s.mean if s else None) for s in seconds),
    ]


def _loss(cell: Cell, column: str) -> Value:
    value = estimate([row["full_valid_auc"] - row[column] for row in cell.rows.values() if row[column] is not None])
    return Value(fmt.number(value.mean if value else None, 5), value.mean if value else None)


def _encoded_cells(section: Section) -> list[Cell]:
    cells = [cell for method in section.methods for cell in reversed(section.cells_of(method))]
    return [cell for cell in cells if all(row["full_valid_auc"] is not None for row in cell.rows.values())]


def expected_chart(section: Section, styles: dict[str, dict[str, str]]) -> dict[str, Any] | None:
    """Measured over predicted loss of validation AUC, a point a run, both axes logarithmic; None without such runs."""
    cells = _encoded_cells(section)
    if not cells:
        return None
    traces = [_points(method, cells, styles[method]) for method in dict.fromkeys(cell.method for cell in cells)]
    ends = [min(min(t["x"] + t["y"]) for t in traces), max(max(t["x"] + t["y"]) for t in traces)]
    line = {"color": "var(--muted)", "dash": "dot", "width": 1}
    diagonal = {"type": "scatter", "mode": "lines", "name": "as predicted", "x": ends, "y": ends} | {
        "line": line,
        "hoverinfo": "skip",
    }
    ticks = [10.0**power for power in range(-5, 1)]
    axis = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.5f}".rstrip("0").rstrip(".") for tick in ticks]}
    return {
        "data": [diagonal, *traces],
        "layout": {
            "xaxis": axis | {"title": {"text": "AUC lost, predicted"}},
            "yaxis": axis | {"title": {"text": "AUC lost, measured"}},
        },
    }


def _points(method: str, cells: list[Cell], style: dict[str, str]) -> dict[str, Any]:
    rows = [(cell, row) for cell in cells if cell.method == method for row in cell.rows.values()]
    losses = [
        [row["full_valid_auc"] - row[column] for _, row in rows] for column in ("expected_valid_auc", "valid_auc")
    ]
    tips = [
        f"<b>{escape(method)} at {cell.budget}, seed {row['seed']}</b><br>predicted {fmt.number(x, 5)}<br>"
        f"measured {fmt.number(y, 5)}"
        for (cell, row), x, y in zip(rows, *losses, strict=True)
    ]
    x, y = ([max(loss, _LEAST) for loss in axis] for axis in losses)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": method,
        "x": x,
        "y": y,
        "marker": {"color": style["color"], "symbol": style["symbol"], "size": 9},
        "text": tips,
        "hovertemplate": "%{text}<extra></extra>",
    }

"""Models against each other on one data set: differences from a base model, and RelaImpr (DIN, section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rectab.metrics import relative_improvement
from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.report_tables import verdict
from rectab.sweep.report_values import Column, ReportTable, Value, cell_head, difference_value, estimate_value
from rectab.sweep.statistics import Estimate, estimate

__all__ = ["ModelComparison", "model_comparisons"]

_TEXT = ("Table", "Budget", "Model", "Verdict")


@dataclass(frozen=True)
class ModelComparison:
    """All models of a data set beside its base model.

    Attributes:
        key: of the element in the page.
        dataset: its name in the report.
        base: name of the base model.
        table: the numbers.
    """

    key: str
    dataset: str
    base: str
    table: ReportTable


def model_comparisons(sections: Sequence[Section]) -> list[ModelComparison]:
    """One for each data set with two models or more that have a table and budget in common."""
    found = []
    for number, dataset in enumerate(dict.fromkeys(section.dataset for section in sections)):
        own = [section for section in sections if section.dataset == dataset and section.cells]
        if len(own) < 2:
            continue
        base = base_of(own)
        table = _table(own, base)
        if table.rows:
            found.append(ModelComparison(f"models{number}", dataset, base.model, table))
    return found


def base_of(sections: Sequence[Section]) -> Section:
    """DIN's base model, whose history tower is ``mean``; else one that ignores histories; else the first."""
    for history in ("mean", "none"):
        for section in sections:
            if section.rows[0]["history"] == history:
                return section
    return sections[0]


def _table(sections: Sequence[Section], base: Section) -> ReportTable:
    rows = []
    for reference in base.cells:
        cells = [(section.model, cell) for section in sections for cell in section.cells if _same(cell, reference)]
        if len(cells) > 1:
            rows += [_row(model, cell, reference) for model, cell in cells]
    return ReportTable(
        "models",
        "Models against each other",
        f"The base model is {base.model}. Differences and RelaImpr are paired by seed, on the same table at the same "
        "budget, with their 95 % t interval. RelaImpr is the gain over the base model of what AUC (or GAUC) lies above "
        "random: (AUC − 0.5) / (base AUC − 0.5) − 1. GAUC is AUC within each group, usually a user, averaged by "
        "impressions.",
        tuple(
            Column(title, title not in _TEXT)
            for title in (
                *("Table", "Budget", "Bytes", "Model", "AUC", "Verdict", "AUC − base", "RelaImpr of AUC"),
                *("GAUC", "GAUC − base", "RelaImpr of GAUC", "Logloss", "Training time", "Seeds"),
            )
        ),
        rows,
    )


def _same(cell: Cell, other: Cell) -> bool:
    return (cell.method, cell.budget) == (other.method, other.budget)


def _row(model: str, cell: Cell, base: Cell) -> list[Value]:
    method, budget, size, _ = cell_head(cell)
    seconds = cell.estimate("train_seconds")
    head = [method, budget, size, Value(model, model), estimate_value(cell.estimate("auc"))]
    tail = [
        estimate_value(cell.estimate("logloss")),
        Value(fmt.duration(seconds.mean if seconds else None), seconds.mean if seconds else None),
        Value(str(cell.auc.n), cell.auc.n),
    ]
    gauc = estimate_value(cell.estimate("gauc"))
    if cell is base:
        blank = Value(fmt.MISSING, 0.0)
        return [*head, Value("base model", 0.0), blank, blank, gauc, blank, blank, *tail]
    auc = cell.difference(base)
    middle = [verdict(auc), difference_value(auc), _percent(improvement(cell, base, "auc")), gauc]
    gauc_change = [difference_value(cell.difference(base, "gauc")), _percent(improvement(cell, base, "gauc"))]
    return [*head, *middle, *gauc_change, *tail]


def improvement(cell: Cell, base: Cell, column: str) -> Estimate | None:
    """RelaImpr in percent over the seeds that both have."""
    pairs: list[tuple[Any, Any]] = [
        (row[column], base.rows[seed][column]) for seed, row in cell.rows.items() if seed in base.rows
    ]
    return estimate([relative_improvement(own, other) for own, other in pairs if own is not None and other is not None])


def _percent(value: Estimate | None) -> Value:
    text = fmt.MISSING if value is None else f"{fmt.difference(value, 2)} %"
    return Value(text, None if value is None else value.mean)

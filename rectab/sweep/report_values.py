"""What tables of the report are made of: cells that know how they sort, and the columns that most tables begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.statistics import Estimate

__all__ = [
    "Column",
    "ReportTable",
    "Value",
    "cell_head",
    "columns_of",
    "difference_value",
    "estimate_value",
    "in_order",
    "method_value",
    "share_value",
    "size_value",
]


@dataclass(frozen=True)
class Value:
    """A cell of a table: what is shown, what it sorts by, and how it is marked (``good``, ``bad``, ``best``)."""

    text: str
    sort: float | str | None = None
    mark: str = ""
    method: str | None = None


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = True


@dataclass(frozen=True)
class ReportTable:
    """A titled table.

    Attributes:
        key: of the element in the page.
        title: what it answers.
        note: how to read it.
        columns, rows: the content.
        folded: shown only when opened.
        markdown: also in ``report.md``.
    """

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: list[list[Value]]
    folded: bool = False
    markdown: bool = True


def columns_of(*titles: str, text: Sequence[str] = ("Table", "Budget")) -> tuple[Column, ...]:
    return tuple(Column(title, title not in text) for title in titles)


def method_value(name: str) -> Value:
    return Value(name, name, method=name)


def estimate_value(value: Estimate | None, mark: str = "") -> Value:
    """A mean with its interval; a dash for None."""
    return Value(fmt.with_interval(value), None if value is None else value.mean, mark)


def difference_value(value: Estimate | None) -> Value:
    """A signed difference, marked where its interval leaves zero out."""
    mark = ("good" if value.mean > 0 else "bad") if value is not None and value.excludes_zero else ""
    return Value(fmt.difference(value), None if value is None else value.mean, mark)


def size_value(value: float | None) -> Value:
    return Value(fmt.size(value), value)


def share_value(value: float | None) -> Value:
    return Value(fmt.share(value), value)


def cell_head(cell: Cell) -> list[Value]:
    """Method, budget, bytes and share of the full table."""
    budget = Value(cell.budget or "none", -1.0 if cell.budget is None else cell.any_row["budget_bytes"])
    return [method_value(cell.method), budget, size_value(cell.serving_bytes), share_value(cell.ratio)]


def in_order(section: Section) -> list[Cell]:
    return [cell for method in section.methods for cell in reversed(section.cells_of(method))]

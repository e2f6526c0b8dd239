"""The methods side by side, as ``rectab tables`` prints them: what each is, and how small it can be on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.budget import format_bytes, full_table_bytes
from rectab.tables.family import InfeasibleBudget
from rectab.tables.planning import plan
from rectab.tables.registry import GROUPS, TableMethod, methods

__all__ = ["Floor", "floors", "methods_renderable", "methods_to_json"]


@dataclass(frozen=True)
class Floor:
    """The smallest table of a method over some vocabularies.

    Attributes:
        bytes: of its serving form; None if the method has no table for them.
        share: of the fp32 full table's bytes.
        error: why there is none.
    """

    bytes: int | None
    share: float | None
    error: str | None = None


def floors(vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions) -> dict[str, Floor]:
    """By name, the floor of every method under its default options."""
    full = full_table_bytes(vocabularies, embedding_dim)
    found = {}
    for method in methods():
        try:
            smallest = _smallest(method, vocabularies, embedding_dim, options)
            found[method.name] = Floor(smallest, smallest / full)
        except ValueError as error:
            found[method.name] = Floor(None, None, str(error))
    return found


def _smallest(
    method: TableMethod, vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions
) -> int:
    """Bytes. Raises ValueError: the method has no table for these vocabularies or options."""
    try:
        return plan(method.name, vocabularies, embedding_dim, 1, options=options).serving.bytes
    except InfeasibleBudget as error:
        if error.smallest_bytes is None:
            raise
        return error.smallest_bytes


def _grouped() -> list[TableMethod]:
    return sorted(methods(), key=lambda method: GROUPS.index(method.group))  # stable: by registration within a group


def methods_to_json(found: Mapping[str, Floor] | None = None) -> list[dict[str, Any]]:
    """One entry a method, group by group; with its floor if ``found`` has it."""
    entries = []
    for method in _grouped():
        entry = {"name": method.name, "group": method.group, "summary": method.summary, "paper": method.paper}
        floor = None if found is None else found[method.name]
        told = {} if floor is None else {"floor_bytes": floor.bytes, "floor_share": floor.share, "error": floor.error}
        entries.append({**entry, **method.capabilities(), **told})
    return entries


def methods_renderable(found: Mapping[str, Floor] | None = None) -> Table:
    """For a terminal: one row a method, group by group; with its floor if ``found`` has it."""
    table = Table(title="Table methods", title_justify="left", show_lines=True)
    for column in ("group", "method", "what it is", *(() if found is None else ("smallest",)), "capabilities"):
        table.add_column(column)
    last = None
    for method in _grouped():
        summary = method.summary + (f" ({method.paper})" if method.paper else "")
        on = [flag.replace("_", " ") for flag, holds in method.capabilities().items() if holds]
        floor = [] if found is None else [_floor_text(found[method.name])]
        table.add_row("" if method.group == last else method.group, method.name, summary, *floor, ", ".join(on))
        last = method.group
    return table


def _floor_text(floor: Floor) -> str:
    if floor.bytes is None or floor.share is None:
        return floor.error or ""
    return f"{format_bytes(floor.bytes)}, {floor.share:.3%}"

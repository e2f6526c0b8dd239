"""Derived columns: which others they are computed from, and which of them are needed."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from rectab.data.recipe_parts import Derived

__all__ = ["needed_derived", "roots_of"]


def needed_derived(derived: Iterable[Derived], needed: Iterable[str]) -> list[Derived]:
    """Those of ``derived`` (each may read the ones before it) that the ``needed`` columns are or are computed from."""
    names, found = set(needed), []
    for column in reversed(list(derived)):
        if column.name in names:
            found.append(column)
            names |= roots_of(column.sql)
    return found[::-1]


def roots_of(sql: str) -> set[str]:
    """The columns that an SQL expression reads; none if it is no such expression."""
    try:
        return set(pl.sql_expr(sql).meta.root_names())
    except pl.exceptions.PolarsError:
        return set()  # whoever stages the column says what is wrong with it

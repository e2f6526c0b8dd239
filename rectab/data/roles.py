"""What a column of a raw file becomes for the role that a recipe gives it: an id, a key, a number, a time, a list.

Each role has one expression here, whichever file the column is of, and the checks that its cells must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from rectab.data.cells import INTEGERS, is_number, number
from rectab.data.errors import RecipeError
from rectab.data.ids import id_problem, identifier
from rectab.data.missing import as_read, present
from rectab.data.reading import RawFile
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.times import TIME_NEEDED, instant

__all__ = ["BAD", "CELL", "Checks", "RawColumns", "id_column", "layout_of", "number_column"]

BAD, CELL = "__bad", "__cell"
_Role = Callable[[pl.Expr, pl.DataType], pl.Expr]


class Checks:
    """Cells that must hold for a row to be used; the first that fails is remembered with the row."""

    def __init__(self) -> None:
        self._checks: list[tuple[str, pl.Expr, str]] = []

    def add(self, column: str, bad: pl.Expr, problem: str) -> None:
        """Another check.

        Args:
            column: whose cell is shown.
            bad: true for a row that fails; null counts as true.
            problem: what to say of it.
        """
        self._checks.append((column, bad.fill_null(True), problem))

    def columns(self, schema: pl.Schema) -> list[pl.Expr]:
        """``BAD``: number of the first failed check (0 = none); ``CELL``: the offending text, as it was read."""
        which, cell = pl.lit(0, pl.UInt16), pl.lit(None, pl.String)
        for position, (column, bad, _) in reversed(list(enumerate(self._checks, 1))):
            which = pl.when(bad).then(pl.lit(position, pl.UInt16)).otherwise(which)
            shown = as_read(column) if as_read(column) in schema else column
            text = pl.col(shown).cast(pl.String, strict=False)
            if isinstance(schema[shown], pl.List):
                text = pl.col(shown).list.eval(pl.element().cast(pl.String)).list.join(", ")
            cell = pl.when(bad).then(text).otherwise(cell)
        return [which.alias(BAD), cell.alias(CELL)]

    def message(self, position: int, cell: str | None) -> str:
        """What to say of a row whose check ``position`` (from 1) failed at the text ``cell``."""
        column, _, problem = self._checks[position - 1]
        shown = repr(cell[:80]) if cell else "an empty cell"
        return f"column {column!r}: {problem}, found {shown}"


@dataclass
class RawColumns:
    """The columns of one raw file, joined and derived ones included, and what is to be staged of them.

    Attributes:
        raw: the file.
        frame: its rows, with null in missing cells.
        checks: what is demanded of a row.
        values: by name, what is worked out once, before it is checked and staged.
        staged: by name, what is staged.
        numeric: names of the staged ids whose column holds numbers.
    """

    raw: RawFile
    frame: pl.LazyFrame
    checks: Checks = field(default_factory=Checks)
    values: dict[str, pl.Expr] = field(default_factory=dict)
    staged: dict[str, pl.Expr] = field(default_factory=dict)
    numeric: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.schema = self.frame.collect_schema()

    def finish(self) -> pl.LazyFrame:
        """The staged columns, and those of the checks."""
        worked_out = self.frame.with_columns(value.alias(name) for name, value in self.values.items())
        staged = [value.alias(name) for name, value in self.staged.items()]
        return worked_out.select(*staged, *self.checks.columns(self.schema))

    def id(self, column: str, name: str | None = None) -> None:
        """Stage ids (Int64 or text) as ``name``. Texts stay as they are until their distinct values are known."""
        name = name or id_column(column)
        if self.schema[column] == pl.String:
            self.staged[name] = pl.col(column)
        else:
            self._stage_ids(column, name)

    def key(self, column: str, name: str, what: str) -> None:
        """Stage ids by which rows are found, in canonical form; none may be missing. ``what``: "the group"."""
        self._stage_ids(column, name)
        self.checks.add(column, pl.col(name).is_null(), f"{what} must not be empty")

    def lists(self, column: str, history: HistoryRecipe) -> None:
        """Stage lists of ids, oldest first; no list is an empty one."""
        dtype, name = self.schema[column], id_column(column)
        if isinstance(dtype, pl.List):
            value = self._elements(column, cast("pl.DataType", dtype.inner))
        elif dtype == pl.Null:
            value = pl.col(column).cast(pl.List(pl.String))
        elif history.separator is None:
            raise RecipeError(f"behaviour {history.behaviour!r}: column {column!r} is text; say separator = '...'")
        else:
            elements = pl.col(column).cast(pl.String).str.split(history.separator)
            value = elements.list.eval(present(pl.element(), pl.String(), self.raw.null_values))
        value = value.fill_null([])
        self.staged[name] = value.list.reverse() if history.newest_first else value

    def number(self, column: str, needed: str = "a number is needed") -> str:
        """The name of a Float64 value: null where missing, and never more than float32 holds.

        Args:
            column: a raw column.
            needed: what to say of a cell that is no number.
        """
        name = number_column(column)
        if name not in self.values:
            self.values[name] = self._role(number, column)
            held = pl.col(name).cast(pl.Float32, strict=False).is_finite()
            self.checks.add(column, ~held.fill_null(True), f"{needed}, and float32 goes up to 3.4e38")
        return name

    def time(self, column: str, name: str, layouts: Sequence[str] = ()) -> None:
        """Stage times, as :func:`~rectab.data.times.instant` describes; none may be missing.

        Args:
            column: a raw column.
            name: of the staged one.
            layouts: texts laid out like one of these (:func:`layout_of`) may be no times.
        """
        self.values[name] = self._role(instant, column)
        self.staged[name] = pl.col(name)
        self.checks.add(column, pl.col(column).is_null(), "the time must not be empty")
        is_no_time = pl.col(name).struct.field("whole").is_null()
        if layouts and self.schema[column] == pl.String:
            is_no_time &= ~layout_of(pl.col(column)).is_in(layouts)
        self.checks.add(column, is_no_time, TIME_NEEDED)

    def check_ids(self, column: str) -> None:
        """Refuse rows whose cell stands for no single id."""
        if (problem := id_problem(pl.col(column), self.schema[column])) is not None:
            self.checks.add(column, *problem)

    def _stage_ids(self, column: str, name: str) -> None:
        self.values[name] = self._role(identifier, column)
        self.staged[name] = pl.col(name)
        self.check_ids(column)
        if is_number(self.schema[column]):
            self.numeric.add(name)

    def _elements(self, column: str, inner: pl.DataType) -> pl.Expr:
        if is_number(inner):
            self.numeric.add(id_column(column))
        if inner == pl.String:
            return pl.col(column)
        if inner in INTEGERS:
            return pl.col(column).cast(pl.List(pl.Int64))
        if (problem := id_problem(pl.element(), inner)) is not None:
            wrong, what = problem
            self.checks.add(column, pl.col(column).list.eval(wrong).list.any().fill_null(False), what)
        return pl.col(column).list.eval(self._role(identifier, column, inner))

    def _role(self, role: _Role, column: str, element: pl.DataType | None = None) -> pl.Expr:
        """``column`` in a role, or one of its elements, of the given type."""
        try:
            return role(pl.col(column), self.schema[column]) if element is None else role(pl.element(), element)
        except TypeError as error:
            raise RecipeError(f"{self.raw.path}: column {column!r} {error}") from None


def layout_of(text: pl.Expr) -> pl.Expr:
    """``text`` with 0 for every digit: texts of one layout sort as the times that they say."""
    return text.str.strip_chars().str.replace_all("[0-9]", "0")


def id_column(column: str) -> str:
    """Name of the staged ids of a raw column."""
    return f"__id:{column}"


def number_column(column: str) -> str:
    """Name of the staged float64 form of a raw column."""
    return f"__number:{column}"

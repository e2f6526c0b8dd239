"""What a column of a raw file becomes for the role that a recipe gives it: an id, a key, a number, a time, a list.

Each role has one expression here, whichever file the column is of, and the checks that its cells must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from rectab.data.cells import INTEGERS, is_number, number
from rectab.data.checks import Checks
from rectab.data.errors import RecipeError
from rectab.data.ids import id_problem, identifier
from rectab.data.lists import LIST_NEEDED, lists_of
from rectab.data.reading import RawFile
from rectab.data.recipe_parts import HistoryRecipe
from rectab.data.times import TIME_NEEDED, instant

__all__ = ["RawColumns", "check_lengths", "id_column", "layout_of", "number_column"]

_Role = Callable[[pl.Expr, pl.DataType], pl.Expr]


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

    def lists(self, columns: Sequence[str], history: HistoryRecipe) -> None:
        """Stage lists of ids, oldest first; no list is an empty one. Those of a row must be equally long."""
        columns = list(dict.fromkeys(columns))
        names = [id_column(column) for column in columns]
        for column, name in zip(columns, names, strict=True):
            self.values[name] = self._ids_of_lists(column, history.separator)
            value = pl.col(name).fill_null([])
            self.staged[name] = value.list.reverse() if history.newest_first else value
            self.checks.add(column, pl.col(column).is_not_null() & pl.col(name).is_null(), LIST_NEEDED)
        check_lengths(self.checks, columns, names, history.behaviour)

    def number(self, column: str, needed: str = "a number is needed", advice: str = "") -> str:
        """The name of a Float64 value: null where missing, and never more than float32 holds.

        Args:
            column: a raw column.
            needed: what to say of a cell that is no number.
            advice: what to say if most cells are none.
        """
        name = number_column(column)
        if name not in self.values:
            self.values[name] = self._role(number, column)
            held = pl.col(name).cast(pl.Float32, strict=False).is_finite()
            self.checks.add(column, ~held.fill_null(True), f"{needed}, and float32 goes up to 3.4e38", advice)
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

    def _ids_of_lists(self, column: str, separator: str | None) -> pl.Expr:
        dtype = self.schema[column]
        lists = lists_of(column, dtype, separator, self.raw.null_values)
        inner = cast("pl.DataType", dtype.inner) if isinstance(dtype, pl.List) else pl.String()
        if is_number(inner):
            self.numeric.add(id_column(column))
        if inner == pl.String:
            return lists
        if inner in INTEGERS:
            return lists.cast(pl.List(pl.Int64))
        if (problem := id_problem(pl.element(), inner)) is not None:
            wrong, what = problem
            self.checks.add(column, lists.list.eval(wrong).list.any().fill_null(False), what)
        return lists.list.eval(self._role(identifier, column, inner))

    def _role(self, role: _Role, column: str, element: pl.DataType | None = None) -> pl.Expr:
        """``column`` in a role, or one of its elements, of the given type."""
        try:
            return role(pl.col(column), self.schema[column]) if element is None else role(pl.element(), element)
        except TypeError as error:
            raise RecipeError(f"{self.raw.path}: column {column!r} {error}") from None


def check_lengths(checks: Checks, columns: Sequence[str], lists: Sequence[str], behaviour: str) -> None:
    """Demand that the ``lists`` of a row, read from ``columns``, are equally long; no list is an empty one."""
    lengths = [pl.col(name).list.len().fill_null(0) for name in lists]
    for column, length in zip(columns[1:], lengths[1:], strict=True):
        needed = f"as many elements are needed as column {columns[0]!r} has (lists of behaviour {behaviour!r})"
        checks.add(column, length != lengths[0], needed)


def layout_of(text: pl.Expr) -> pl.Expr:
    """``text`` with 0 for every digit: texts of one layout sort as the times that they say."""
    return text.str.strip_chars().str.replace_all("[0-9]", "0")


def id_column(column: str) -> str:
    """Name of the staged ids of a raw column."""
    return f"__id:{column}"


def number_column(column: str) -> str:
    """Name of the staged float64 form of a raw column."""
    return f"__number:{column}"

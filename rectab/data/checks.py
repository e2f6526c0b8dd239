"""What cells must be for their row to be used, and what is done about bad rows: an error, or they are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from rectab.data.errors import DataError
from rectab.data.missing import as_read
from rectab.data.reading import FILE, ROW, RawFile
from rectab.data.text import SHOWN_PROBLEMS

__all__ = ["BAD", "CELL", "BadRows", "Checks"]

BAD, CELL = "__bad", "__cell"
_MENTIONED = 5  # values of a column whose cells are mostly bad


@dataclass(frozen=True)
class _Check:
    """A column whose cell is shown, where it is bad (true or null), what to say of it, what to do if most cells are."""

    column: str
    bad: pl.Expr
    problem: str
    advice: str


class Checks:
    """Cells that must hold for a row to be used; the first that fails is remembered with the row."""

    def __init__(self) -> None:
        self._checks: list[_Check] = []

    def add(self, column: str, bad: pl.Expr, problem: str, advice: str = "") -> None:
        """Another check.

        Args:
            column: whose cell is shown.
            bad: true for a row that fails; null counts as true.
            problem: what to say of it.
            advice: how to mend the recipe, if most rows fail.
        """
        self._checks.append(_Check(column, bad.fill_null(True), problem, advice))

    def columns(self, schema: pl.Schema) -> list[pl.Expr]:
        """``BAD``: number of the first failed check (0 = none); ``CELL``: the offending text, as it was read."""
        which, cell = pl.lit(0, pl.UInt16), pl.lit(None, pl.String)
        for position, check in reversed(list(enumerate(self._checks, 1))):
            which = pl.when(check.bad).then(pl.lit(position, pl.UInt16)).otherwise(which)
            shown = as_read(check.column) if as_read(check.column) in schema else check.column
            text = pl.col(shown).cast(pl.String, strict=False)
            if isinstance(schema[shown], pl.List):
                text = pl.col(shown).list.eval(pl.element().cast(pl.String)).list.join(", ")
            cell = pl.when(check.bad).then(text).otherwise(cell)
        return [which.alias(BAD), cell.alias(CELL)]

    def message(self, position: int, cell: str | None) -> str:
        """What to say of a row whose check ``position`` (from 1) failed at the text ``cell``."""
        check = self._checks[position - 1]
        shown = repr(cell[:80]) if cell else "an empty cell"
        return f"column {check.column!r}: {check.problem}, found {shown}"

    def advice(self, position: int, cells: pl.Series) -> str:
        """What to say if most rows fail check ``position``, whose cells are the texts ``cells``."""
        check = self._checks[position - 1]
        told = check.advice or f"check that the recipe means column {check.column!r}"
        return f"most rows are so ({_commonest(cells)}), so mend the recipe: {told}"


@dataclass
class BadRows:
    """The bad rows of a run.

    Attributes:
        skip: leave them out, instead of raising.
        dropped: how many were left out.
        problems: what was wrong with the first of them.
    """

    skip: bool
    dropped: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, count: int, problems: Sequence[str]) -> None:
        """Count rows that were left out."""
        self.dropped += count
        self.problems += problems[: max(SHOWN_PROBLEMS - len(self.problems), 0)]

    def leave_out(self, bad: pl.DataFrame, rows: int, raws: Sequence[RawFile], checks: Sequence[Checks]) -> None:
        """Count bad rows, unless they may not be skipped.

        Args:
            bad: columns ``FILE``, ``ROW``, ``BAD`` and ``CELL`` of these rows.
            rows: how many there are, good ones included.
            raws: the files, by number.
            checks: of each file.

        Raises:
            DataError: they may not be skipped, or no other row is left.
        """
        told = [
            f"{raws[file].place(row)}, {checks[file].message(check, cell)}"
            for file, row, check, cell in bad.select(FILE, ROW, BAD, CELL).head(SHOWN_PROBLEMS).iter_rows()
        ]
        if not told or (self.skip and len(bad) < rows):
            return self.note(len(bad), told)
        file, check = bad.select(FILE, BAD).row(0)
        alike = bad.filter((pl.col(FILE) == file) & (pl.col(BAD) == check))[CELL]
        others = f" (and {len(bad) - 1:,} more such rows of {rows:,})" if len(bad) > 1 else ""
        advice = "mend it, or leave such rows out with --bad-rows skip"
        if len(alike) > 1 and 2 * len(alike) > rows:
            advice = checks[file].advice(check, alike)
        elif len(bad) == rows:
            advice = "no row is left"
        raise DataError(f"{told[0]}{others}; {advice}")


def _commonest(cells: pl.Series) -> str:
    counts = cells.fill_null("").alias("cell").value_counts(sort=True).sort("count", "cell", descending=[True, False])
    told = [f"{cell[:40]!r} {count:,} times" if cell else f"none {count:,} times" for cell, count in counts.iter_rows()]
    return ", ".join(told[:_MENTIONED]) + (", ..." if len(told) > _MENTIONED else "")

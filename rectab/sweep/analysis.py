"""What a sweep's results say: means over seeds, Pareto front, bytes at equal AUC, AUC at equal bytes, differences.

Everything is against *achieved* serving bytes, never the budget that was asked for. Curves are linear in AUC over the
logarithm of bytes between neighbouring measured points; nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from rectab.sweep.statistics import Estimate, estimate
from rectab.tables.registry import find_record

__all__ = ["Cell", "Curve", "Section", "sections_of"]

END_TOLERANCE = 0.03
"""An end point of a curve also stands for bytes up to this share beyond it: methods hit one budget to within that."""


@dataclass(frozen=True)
class Cell:
    """The finished runs of one method at one budget: they differ by seed only.

    Attributes:
        method: its name in the report.
        budget: as asked for; None without one.
        rows: the runs (rows of ``results.parquet``), by seed.
    """

    method: str
    budget: str | None
    rows: dict[int, dict[str, Any]]

    @cached_property
    def auc(self) -> Estimate:
        auc = self.estimate("auc")
        assert auc is not None, "a finished run has a test AUC"
        return auc

    @cached_property
    def serving_bytes(self) -> float:
        """Mean over seeds (learned methods may end at different sizes)."""
        return math.fsum(row["serving_bytes"] for row in self.rows.values()) / len(self.rows)

    @cached_property
    def ratio(self) -> float:
        """Serving bytes over the fp32 full table's."""
        return self.serving_bytes / self.any_row["full_bytes"]

    @property
    def serves_small_only(self) -> bool:
        """Whether training it takes a full table: only what is served is small."""
        return find_record(self.any_row["table"]).needs_full_table

    @property
    def any_row(self) -> dict[str, Any]:
        return next(iter(self.rows.values()))

    def estimate(self, column: str) -> Estimate | None:
        """Mean and interval of a column over the seeds that have it."""
        return estimate([row[column] for row in self.rows.values() if row[column] is not None])

    def difference(self, reference: Cell, column: str = "auc") -> Estimate | None:
        """Paired: this cell minus the reference at the same seed; None without a common seed."""
        pairs = [
            (row[column], reference.rows[seed][column]) for seed, row in self.rows.items() if seed in reference.rows
        ]
        return estimate([own - other for own, other in pairs if own is not None and other is not None])


@dataclass(frozen=True)
class Curve:
    """AUC over bytes, at measured points.

    Attributes:
        points: (bytes, AUC), ascending in bytes.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        return cls(tuple(sorted(points)))

    def auc_at(self, size: float) -> float | None:
        """AUC at so many bytes; None outside what was measured (but see ``END_TOLERANCE``)."""
        if not self.points:
            return None
        smallest, largest = self.points[0], self.points[-1]
        if size <= smallest[0]:
            return smallest[1] if size >= smallest[0] * (1 - END_TOLERANCE) else None
        if size >= largest[0]:
            return largest[1] if size <= largest[0] * (1 + END_TOLERANCE) else None
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            if x0 <= size <= x1:
                share = (math.log(size) - math.log(x0)) / (math.log(x1) - math.log(x0)) if x1 > x0 else 0.0
                return y0 + share * (y1 - y0)
        raise AssertionError("points are sorted")

    def bytes_at(self, auc: float) -> float | None:
        """Fewest bytes at which the curve reaches an AUC; None if it never does. At the smallest measured point this
        is only an upper bound, see :meth:`starts_above`."""
        if self.starts_above(auc):
            return self.points[0][0]
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            if y1 >= auc:
                return math.exp(math.log(x0) + (auc - y0) / (y1 - y0) * (math.log(x1) - math.log(x0)))
        return None

    def starts_above(self, auc: float) -> bool:
        """Whether already the smallest measured point reaches an AUC."""
        return bool(self.points) and self.points[0][1] >= auc


@dataclass(frozen=True)
class Section:
    """The results of one model on one data set.

    Attributes:
        dataset, model: names in the report.
        cells: finished ones, in the order of the sweep.
        rows: every run, failures included.
    """

    dataset: str
    model: str
    cells: tuple[Cell, ...]
    rows: tuple[dict[str, Any], ...]

    @cached_property
    def methods(self) -> list[str]:
        """Names of methods with a finished run, the full table first."""
        names = dict.fromkeys(cell.method for cell in self.cells)
        full = self.full.method if self.full else None
        return sorted(names, key=lambda name: name != full)

    def methods_of(self, serves_small_only: bool) -> list[str]:
        """Those of one kind, see :attr:`Cell.serves_small_only`; the full table is of neither."""
        kinds = {cell.method: cell.serves_small_only for cell in self.cells if cell is not self.full}
        return [name for name in self.methods if kinds.get(name) is serves_small_only]

    @cached_property
    def full(self) -> Cell | None:
        """The full table without a budget, if it was run: the reference of all differences."""
        return next((cell for cell in self.cells if cell.any_row["table"] == "full" and cell.budget is None), None)

    @cached_property
    def full_bytes(self) -> int:
        return int(self.rows[0]["full_bytes"])

    def cells_of(self, method: str) -> list[Cell]:
        """Ascending in bytes."""
        return sorted((cell for cell in self.cells if cell.method == method), key=lambda cell: cell.serving_bytes)

    def curve(self, method: str, seed: int | None = None) -> Curve:
        """Mean AUC over bytes, or that of one seed (points where the seed failed are missing)."""
        cells = self.cells_of(method)
        if seed is None:
            return Curve.of((cell.serving_bytes, cell.auc.mean) for cell in cells)
        rows = [cell.rows[seed] for cell in cells if seed in cell.rows]
        return Curve.of((row["serving_bytes"], row["auc"]) for row in rows)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({seed for cell in self.cells for seed in cell.rows})

    def over_seeds(self, value: Callable[[int], float | None]) -> Estimate | None:
        """Mean and interval of what ``value(seed)`` gives; seeds without a value are left out."""
        values = [value(seed) for seed in self.seeds]
        return estimate([number for number in values if number is not None])

    def auc_at_bytes(self, method: str, size: float) -> Estimate | None:
        """AUC at so many bytes, interpolated seed by seed; None outside what was measured."""
        if self.curve(method).auc_at(size) is None:
            return None
        return self.over_seeds(lambda seed: self.curve(method, seed).auc_at(size))

    def equal_bytes(self) -> list[int]:
        """Sizes at which methods are compared: at each budget, the fewest bytes any method used of it."""
        by_budget: dict[str, list[float]] = {}
        for cell in self.cells:
            if cell.budget is not None:
                by_budget.setdefault(cell.budget, []).append(cell.serving_bytes)
        return sorted({round(min(sizes)) for sizes in by_budget.values()})

    @cached_property
    def pareto(self) -> list[Cell]:
        """Cells that no other cell beats in mean AUC with as many or fewer bytes, ascending in bytes."""
        front: list[Cell] = []
        for cell in sorted(self.cells, key=lambda cell: (cell.serving_bytes, -cell.auc.mean)):
            if not front or cell.auc.mean > front[-1].auc.mean:
                front.append(cell)
        return front

    def smallest_within(self, loss: float) -> Cell | None:
        """The smallest measured table whose mean paired loss against the full table is at most ``loss``."""
        reference = self.full
        if reference is None:
            return None
        for cell in sorted(self.cells, key=lambda cell: cell.serving_bytes):
            difference = cell.difference(reference)
            if cell is not reference and difference is not None and difference.mean >= -loss:
                return cell
        return None


def sections_of(results: pl.DataFrame) -> list[Section]:
    """One section per data set and model, in the order of the results."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results.iter_rows(named=True):
        groups.setdefault((row["dataset"], row["model"]), []).append(row)
    return [Section(dataset, model, _cells(rows), tuple(rows)) for (dataset, model), rows in groups.items()]


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[Cell, ...]:
    cells: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["auc"] is not None:
            cells.setdefault((row["method"], row["budget"]), {})[row["seed"]] = row
    return tuple(Cell(method, budget, by_seed) for (method, budget), by_seed in cells.items())

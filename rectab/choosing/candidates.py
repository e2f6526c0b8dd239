"""Which tables come into question for a budget, by rule, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rectab.data.dataset import PreparedDataset
from rectab.id_bytes import map_bytes
from rectab.tables import TableOptions, plan
from rectab.tables.budget import full_table_bytes, parse_budget
from rectab.tables.family import InfeasibleBudget
from rectab.tables.registry import TableMethod, methods

__all__ = ["Candidate", "Field", "RuledOut", "propose"]

_ROW_FORMATS = ("fp32", "int8")
_ALSO_FEW_BITS = ("lsq4", *_ROW_FORMATS)
_IN_FEW_BITS = ("unified", "hashed")
"""Where rows trained for four bits were measured, and were above floats in as many bytes served (docs/results.md); they
are tried before the others."""

_FIRST = ("narrow", "unified", "hashed", "qr", "dhe")
"""In the order of what they lost on the data sets measured (docs/which-table.md): where time is short, the first ones
are tried."""


@dataclass(frozen=True)
class Candidate:
    """A table that comes into question.

    Attributes:
        method, rows, embedding_dim: of the table.
        budget: bytes that it may serve from; None: its own size.
        serving_bytes: planned; of a learned size at most.
        training_bytes: planned.
        encoded: the full table is trained and this is encoded of it; else it is small while it trains.
    """

    method: str
    rows: str
    embedding_dim: int
    budget: int | None
    serving_bytes: int
    training_bytes: int
    encoded: bool

    @property
    def key(self) -> str:
        """Names its files; equal for equal tables."""
        return f"{self.method}-{self.rows}-{self.embedding_dim}-{self.budget or 'own'}"

    @property
    def label(self) -> str:
        rows = "" if self.rows == "fp32" else f", rows in {self.rows}"
        return f"{self.method}, width {self.embedding_dim}{rows}"


@dataclass(frozen=True)
class RuledOut:
    """Attributes:
    label: of the method.
    reason: why it is no candidate.
    """

    label: str
    reason: str


@dataclass(frozen=True)
class Field:
    """Attributes:
    encoded: of the trained full table, the widest first.
    small: tables that are small while they train, in the order to try them.
    full: the full table itself, for reference; None where it cannot be trained.
    ruled_out: methods that are not tried.
    full_bytes: of the fp32 full table, which shares are of.
    """

    encoded: tuple[Candidate, ...]
    small: tuple[Candidate, ...]
    full: Candidate | None
    ruled_out: tuple[RuledOut, ...]
    full_bytes: int


def propose(
    dataset: PreparedDataset,
    embedding_dim: int,
    budget: str | int,
    train_memory: str | None = None,
    count_ids: bool = False,
    optimizer: str = "adam",
) -> Field:
    """The candidates for a budget. Nothing is allocated.

    Args:
        dataset: the data.
        embedding_dim: width of the full table.
        budget: bytes, or a share of the fp32 full table of that width.
        train_memory: most bytes that training a table may take.
        count_ids: the budget is for the table and the map from raw values to ids together.
        optimizer: of the training.

    Raises:
        ValueError: a budget is not understood.
    """
    full_bytes = full_table_bytes(dataset.schema.vocabularies, embedding_dim)
    size = parse_budget(budget, full_bytes)
    limit = None if train_memory is None else parse_budget(train_memory, full_bytes)
    asked = _Asked(dataset, embedding_dim, size, limit, count_ids, optimizer)
    ruled_out: dict[str, str] = {}
    encoded: list[Candidate] = []
    small: list[Candidate] = []
    for method in methods():
        for width in _widths(embedding_dim) if method.trained_as else (embedding_dim,):
            for rows in _formats(method):
                found = asked.candidate(method, width, rows)
                if isinstance(found, str):
                    ruled_out.setdefault(method.name, found)
                else:
                    (encoded if method.trained_as else small).append(found)
    if encoded:  # the same memory trains it, and an encoded full table has lost less than what these learn
        for method in methods():
            if method.needs_full_table and method.trained_as is None:
                small = [c for c in small if c.method != method.name]
                ruled_out[method.name] = "holds the full table while it trains, and an encoded full table loses less"
    for name in {c.method for c in (*encoded, *small)}:
        ruled_out.pop(name, None)
    full = asked.full()
    told = tuple(RuledOut(name, reason) for name, reason in ruled_out.items())
    return Field(tuple(encoded), tuple(sorted(small, key=_order)), full, told, full_bytes)


@dataclass(frozen=True)
class _Asked:
    dataset: PreparedDataset
    embedding_dim: int
    budget: int
    train_memory: int | None
    count_ids: bool
    optimizer: str

    def candidate(self, method: TableMethod, width: int, rows: str) -> Candidate | str:
        """The method's table, or why there is none."""
        return self._planned(method.name, width, rows, self.budget, method.trained_as is not None)

    def full(self) -> Candidate | None:
        found = self._planned("full", self.embedding_dim, "fp32", None, False)
        return None if isinstance(found, str) else found

    def _planned(self, method: str, width: int, rows: str, budget: int | None, encoded: bool) -> Candidate | str:
        given: dict[str, Any] = {"map_bytes": map_bytes(self.dataset.schema), "count_ids": self.count_ids}
        try:
            made = plan(
                method,
                self.dataset.schema.vocabularies,
                width,
                budget,
                options=TableOptions(rows=rows),
                train_memory=self.train_memory,
                optimizer=self.optimizer,
                **given,
            )
        except (InfeasibleBudget, ValueError) as error:
            return str(error)
        return Candidate(method, rows, width, budget, made.serving.bytes, made.training.bytes, encoded)


def _formats(method: TableMethod) -> Sequence[str]:
    if method.without_rows or method.needs_full_table:
        return ("fp32",)
    return _ALSO_FEW_BITS if method.name in _IN_FEW_BITS else _ROW_FORMATS


def _widths(embedding_dim: int) -> list[int]:
    """Of the trainings that are encoded: the width asked for, three quarters, a half and a third of it."""
    return list(dict.fromkeys(max(embedding_dim * share // 12, 1) for share in (12, 9, 6, 4)))


def _order(candidate: Candidate) -> tuple[int, int]:
    position = _FIRST.index(candidate.method) if candidate.method in _FIRST else len(_FIRST)
    return position, _ALSO_FEW_BITS.index(candidate.rows)

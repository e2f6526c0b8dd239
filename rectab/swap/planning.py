"""From found tables to rectab tables: which share rows, and what each gets of the one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rectab.ops import Gradient, float_format, get_format, served_format
from rectab.schema import Vocabulary
from rectab.swap.find import FoundTable, Selector, find_tables
from rectab.tables import (
    InfeasibleBudget,
    InfeasibleTraining,
    Ledger,
    Plan,
    TableOptions,
    format_bytes,
    get_method,
    parse_budget,
    plan,
)
from rectab.tables.unseen import Unseen

__all__ = ["PlannedTable", "SwapPlan", "plan_swap", "share_budget"]

_FEWEST_ELEMENTS = 16
"""The std of fewer says nothing."""
_SMALL_SHARE = 0.05
"""Part of the budget kept for tables too small for their proportional share to be of use."""


@dataclass(frozen=True)
class PlannedTable:
    """One rectab table and the host tables it takes the place of.

    Attributes:
        plan: what is built; its options hold ``init_std``, the geometric mean std of the tables replaced.
        found: the host tables, in the order of the plan's vocabularies.
        scales: std of each host table over ``init_std``; 1.0 unless they differ measurably. Rows that only one
            vocabulary reads start that much larger; where vocabularies share rows, the view's output is multiplied
            (by at most 4, at least 1/4).
    """

    plan: Plan
    found: tuple[FoundTable, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True)
class SwapPlan:
    """What a swap would do. ``print`` shows it.

    Attributes:
        method: name of the table method.
        init: ``fresh`` or ``trained``.
        tables: what is built; several if widths, dtypes or devices differ. Never for what initial weights happen to be:
            a checkpoint has to load whatever they were.
        budget_bytes: of all of them together; None if none was given.
        notes: tables left alone, and why.
    """

    method: str
    init: str
    tables: tuple[PlannedTable, ...]
    budget_bytes: int | None
    notes: tuple[str, ...]

    @property
    def bytes_before(self) -> int:
        """Bytes of the weights that are replaced."""
        return sum(found.bytes for table in self.tables for found in table.found)

    @property
    def bytes_after(self) -> int:
        """Bytes of the serving form of the rectab tables, indexes and all."""
        return sum(table.plan.serving.bytes for table in self.tables)

    def __str__(self) -> str:
        count = sum(len(table.found) for table in self.tables)
        share = self.bytes_after / self.bytes_before
        lines = [
            f"{self.method}: {count} tables, {format_bytes(self.bytes_before)} -> {format_bytes(self.bytes_after)} "
            f"({share:.1%}" + (f", budget {format_bytes(self.budget_bytes)})" if self.budget_bytes else ")")
        ]
        for table in self.tables:
            size = sum(found.bytes for found in table.found)
            lines.append(
                f"  width {table.plan.embedding_dim}, std {table.plan.options.init_std:.2g}: {format_bytes(size)} -> "
                f"{format_bytes(table.plan.serving.bytes)}, {table.plan.config}"
            )
            for found, scale in zip(table.found, table.scales, strict=True):
                aliases = f" (= {', '.join(found.names[1:])})" if len(found.names) > 1 else ""
                times = "" if scale == 1.0 else f", std x {scale:.3g}"
                lines.append(f"    {found.name}{aliases}: {found.module.num_embeddings} ids{times}")
        return "\n".join([*lines, *(f"  left alone: {note}" for note in self.notes)])


def plan_swap(
    model: nn.Module,
    method: str = "unified",
    budget: str | int | None = "25%",
    *,
    include: Selector = None,
    exclude: Selector = None,
    gradient: Gradient = "dense",
    init: str = "fresh",
    unseen: Unseen | None = "error",
    counts: Mapping[str, Any] | None = None,
    rows: str | None = None,
    train_memory: str | int | None = None,
    seed: int = 0,
    **method_options: Any,
) -> SwapPlan:
    """What :func:`swap_` would do, without touching the model; see there for the arguments and errors."""
    if init not in ("fresh", "trained"):
        raise ValueError(f"init must be 'fresh' or 'trained', got {init!r}")
    record = get_method(method)
    if record.needs_own_trainer:
        hint = "; a model that is trained already takes rectab.compress_(model, budget)" if record.trained_as else ""
        raise ValueError(f"{method} is trained in stages by rectab's own trainer; a host's loop cannot run it{hint}")
    found, notes = find_tables(model, include, exclude)
    vocabularies = _vocabularies(found, counts or {})
    groups = _groups(found)
    before = sum(table.bytes for table in found)
    # As text: a small number without a unit is asked about. budget=100 is hardly meant as 100 bytes for all tables.
    budget_bytes = None if budget is None else parse_budget(str(budget), before)
    options = [_options(members, gradient, unseen, seed + index, rows) for index, members in enumerate(groups)]

    def planned(index: int, size: int | None) -> Plan:
        members = groups[index]
        return plan(
            method,
            [vocabularies[table.name] for table in members],
            members[0].module.embedding_dim,
            size,
            options=options[index],
            **method_options,
        )

    shares: list[int] | list[None] = [None] * len(groups)
    if budget_bytes is not None:
        smallest = [_smallest(lambda size, i=index: planned(i, size)) for index in range(len(groups))]
        shares = share_budget(method, budget_bytes, [sum(t.bytes for t in members) for members in groups], smallest)
    tables = []
    for index, members in enumerate(groups):
        scales = [_scale(table, options[index].init_std) if init == "fresh" else 1.0 for table in members]
        tables.append(PlannedTable(planned(index, shares[index]), tuple(members), tuple(scales)))
    if train_memory is not None:
        held = (entry for table in tables for entry in table.plan.training if entry.kind != "best weights")
        training = Ledger(tuple(held))  # whether a host keeps a copy of the best weights is its own affair
        if training.bytes > (limit := parse_budget(str(train_memory), before)):
            raise InfeasibleTraining(method, limit, training)
    return SwapPlan(method, init, tuple(tables), budget_bytes, notes)


def _vocabularies(found: Sequence[FoundTable], counts: Mapping[str, Any]) -> dict[str, Vocabulary]:
    names = {name: table for table in found for name in table.names}
    unknown = sorted(set(counts) - set(names))
    if unknown:
        raise ValueError(f"counts for {unknown}, but the tables are {sorted(names)}")
    given = {names[name].name: np.asarray(array, dtype=np.int64) for name, array in counts.items()}
    return {
        table.name: Vocabulary(table.name, table.module.num_embeddings, counts=given.get(table.name)) for table in found
    }


def _groups(found: Sequence[FoundTable]) -> list[list[FoundTable]]:
    """Tables that share a rectab table: equal width, dtype and device. The largest first, then in model order."""
    alike: dict[tuple[Any, ...], list[FoundTable]] = {}
    for table in found:
        weight = table.weight
        alike.setdefault((weight.shape[1], weight.dtype, weight.device), []).append(table)
    groups = []
    for members in alike.values():
        largest = max(members, key=lambda table: table.trained_elements)
        groups.append([largest, *(table for table in members if table is not largest)])
    return groups


def _mean_std(members: Sequence[FoundTable]) -> float:
    """Geometric mean of the stds, weighted by elements; 0.01 where there is none (meta device, all zeros)."""
    known = [table for table in members if table.std > 0.0 and table.trained_elements >= _FEWEST_ELEMENTS]
    known = known or [table for table in members if table.std > 0.0]
    if not known:
        return 0.01
    elements = sum(table.trained_elements for table in known)
    return math.exp(sum(table.trained_elements * math.log(table.std) for table in known) / elements)


def _scale(table: FoundTable, init_std: float) -> float:
    """Std of a host table over that of the rows; 1.0 where chance may explain the difference (four standard errors)."""
    if not table.std > 0.0 or table.trained_elements < _FEWEST_ELEMENTS:
        return 1.0
    ratio = table.std / init_std
    return 1.0 if abs(math.log(ratio)) <= max(4 / math.sqrt(2 * table.trained_elements), 0.02) else ratio


def _options(
    members: Sequence[FoundTable], gradient: Gradient, unseen: Unseen | None, seed: int, rows: str | None
) -> TableOptions:
    largest = members[0]
    if gradient == "row" and largest.weight.dtype == torch.float64:
        raise ValueError(
            f"{largest.name} is float64, but row optimizers compute in float32; swap with gradient='dense' or "
            "'sparse', or convert the model with model.float() first"
        )
    if rows is not None and served_format(rows) != get_format(rows):
        raise ValueError(
            f"rows {rows!r} end in codes when rectab's own training ends; swap with rows='int8' or 'int4', or "
            "compress_ the trained model"
        )
    return TableOptions(
        gradient=gradient,
        init_std=_mean_std(members),
        seed=seed,
        rows=rows or float_format(largest.weight.dtype).name,
        device="meta" if largest.weight.device.type == "meta" else "cpu",
        unseen=unseen,
    )


def _smallest(planned: Any) -> int:
    try:
        return int(planned(1).serving.bytes)
    except InfeasibleBudget as error:
        if error.smallest_bytes is None:
            raise
        return error.smallest_bytes


def share_budget(method: str, budget: int, full: Sequence[int], smallest: Sequence[int]) -> list[int]:
    """Bytes of each table: in proportion to its full bytes, but never less than it can serve.

    A table that is small beside the others keeps its full size while that costs a few percent of the budget: a share in
    proportion would leave it a handful of rows and save nothing.

    Raises:
        InfeasibleBudget: the smallest tables do not fit together.
    """
    if sum(smallest) > budget:
        raise InfeasibleBudget(method, budget, sum(smallest), f"{len(full)} tables of different width or scale")
    spared = int(budget * _SMALL_SHARE / len(full))
    floors = [max(low, min(size, spared)) for low, size in zip(smallest, full, strict=True)]
    if sum(floors) > budget:
        floors = list(smallest)
    held: set[int] = set()
    while True:
        free = budget - sum(floors[index] for index in held)
        total = sum(size for index, size in enumerate(full) if index not in held)
        shares = [floors[i] if i in held else free * size // total for i, size in enumerate(full)]
        below = {index for index, share in enumerate(shares) if share < floors[index]}
        if not below:
            return shares
        held |= below

"""From found tables to rectab tables: which share rows, and what each gets of the one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rectab.ops import Gradient, float_format
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

_SCALE_CLASS = 4.0
"""Tables whose stds differ by more never share rows: one learning rate cannot suit both."""
_FEWEST_ELEMENTS = 16
"""The std of fewer says nothing."""
_SMALL_SHARE = 0.05
"""Part of the budget kept for tables too small for their proportional share to be of use."""


@dataclass(frozen=True)
class PlannedTable:
    """One rectab table and the host tables it takes the place of.

    Attributes:
        plan: what is built; its options hold ``init_std``, the std of the largest table replaced.
        found: the host tables, in the order of the plan's vocabularies.
        scales: fixed factor of each view's output (1.0 unless the stds differ measurably).
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
        tables: what is built; several if widths, dtypes, devices or scales differ.
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
                times = "" if scale == 1.0 else f", output x {scale:.3g}"
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
    if get_method(method).needs_own_trainer:
        raise ValueError(f"{method} is trained in stages by rectab's own trainer; a host's loop cannot run it")
    found, notes = find_tables(model, include, exclude)
    vocabularies = _vocabularies(found, counts or {})
    groups = _groups(found, match_scale=init == "fresh")
    before = sum(table.bytes for table in found)
    budget_bytes = None if budget is None else parse_budget(budget, before)
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
        scales = [_scale(table, members[0]) if init == "fresh" else 1.0 for table in members]
        tables.append(PlannedTable(planned(index, shares[index]), tuple(members), tuple(scales)))
    if train_memory is not None:
        held = (entry for table in tables for entry in table.plan.training if entry.kind != "best weights")
        training = Ledger(tuple(held))  # whether a host keeps a copy of the best weights is its own affair
        if training.bytes > (limit := parse_budget(train_memory, before)):
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


def _groups(found: Sequence[FoundTable], match_scale: bool) -> list[list[FoundTable]]:
    """Tables that may share rows: equal width, dtype and device and, if asked, a like scale; model order inside."""
    alike: dict[tuple[Any, ...], list[FoundTable]] = {}
    for table in found:
        weight = table.weight
        alike.setdefault((weight.shape[1], weight.dtype, weight.device), []).append(table)
    groups = []
    for members in alike.values():
        left = members
        while left:
            centre = max(left, key=lambda table: table.trained_elements)
            group = [table for table in left if not match_scale or _same_class(table, centre)]
            left = [table for table in left if all(table is not other for other in group)]
            groups.append([centre, *(table for table in group if table is not centre)])
    return groups


def _log_ratio(table: FoundTable, centre: FoundTable) -> tuple[float, float]:
    """(log of the ratio of stds, what chance alone explains of it: four standard errors)."""
    if math.isnan(table.std) or math.isnan(centre.std) or (table.std == 0.0 and centre.std == 0.0):
        return 0.0, math.inf
    elements = min(table.trained_elements, centre.trained_elements)
    if elements < _FEWEST_ELEMENTS:
        return 0.0, math.inf
    if table.std == 0.0 or centre.std == 0.0:
        return math.inf, 0.0
    return math.log(table.std / centre.std), 4 / math.sqrt(2 * elements)


def _same_class(table: FoundTable, centre: FoundTable) -> bool:
    ratio, chance = _log_ratio(table, centre)
    return abs(ratio) <= max(math.log(_SCALE_CLASS), chance)


def _scale(table: FoundTable, centre: FoundTable) -> float:
    ratio, chance = _log_ratio(table, centre)
    return 1.0 if abs(ratio) <= max(chance, 0.02) else math.exp(ratio)


def _options(
    members: Sequence[FoundTable], gradient: Gradient, unseen: Unseen | None, seed: int, rows: str | None
) -> TableOptions:
    centre = members[0]
    std = 0.01 if math.isnan(centre.std) else centre.std
    if gradient == "row" and centre.weight.dtype == torch.float64:
        raise ValueError(
            f"{centre.name} is float64, but row optimizers compute in float32; swap with gradient='dense' or 'sparse', "
            "or convert the model with model.float() first"
        )
    return TableOptions(
        gradient=gradient, init_std=std, seed=seed, rows=rows or float_format(centre.weight.dtype).name, unseen=unseen
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

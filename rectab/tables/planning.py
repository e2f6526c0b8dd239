"""From a memory budget to a table: one budget in bytes of the serving form, any method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from rectab.ops import get_format
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.budget import format_bytes, full_table_bytes, resolve_budget
from rectab.tables.family import Choice, Family, InfeasibleBudget, largest_within
from rectab.tables.ledger import Ledger
from rectab.tables.registry import build_table, bytes_of, config_to_json, get_method
from rectab.tables.training_bytes import RowTraining, training_ledger

__all__ = ["InfeasibleBudget", "InfeasibleTraining", "Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What a method makes of a budget, counted before anything is allocated.

    Attributes:
        method: name of the method.
        config: what to build.
        vocabularies: what it serves.
        embedding_dim: D.
        options: how it is held and trained.
        budget_bytes: what was asked for; None if nothing was.
        serving: ledger of the serving form, or the most that training may end in (:attr:`at_most`).
        training: ledger while training, see :func:`rectab.tables.training_bytes.training_ledger`.
        full_bytes: bytes of the fp32 full table of the same vocabularies, the denominator of every ratio.
        next_bytes: serving bytes of the method's next larger table; None if there is none, or without a budget.
        map_bytes: of the map from raw values to ids, which travels beside the table; 0 where ids are given.
        count_ids: whether the map is within the budget.
    """

    method: str
    config: Any
    vocabularies: tuple[Vocabulary, ...]
    embedding_dim: int
    options: TableOptions
    budget_bytes: int | None
    serving: Ledger
    training: Ledger
    full_bytes: int
    next_bytes: int | None = None
    map_bytes: int = 0
    count_ids: bool = False

    @property
    def at_most(self) -> bool:
        """True if ``serving`` is no count but the most that training may end in: the size is known after it."""
        return get_method(self.method).size_after_training

    @property
    def budget_share(self) -> float | None:
        """Serving bytes over the budget, the map's among them where it counts; None without a budget."""
        return None if self.budget_bytes is None else self.within_budget(self.serving.bytes) / self.budget_bytes

    def within_budget(self, table_bytes: int, map_bytes: int | None = None) -> int:
        """What of a table's bytes, and of the map's (None: the whole one), the budget is for.

        A table that is encoded after training says only then which ids its map needs.
        """
        if not self.count_ids:
            return table_bytes
        if map_bytes is None:
            map_bytes = self.map_bytes if get_method(self.method).trained_as is None else 0
        return table_bytes + map_bytes

    @property
    def ratio(self) -> float:
        """Serving bytes over the full table's."""
        return self.serving.bytes / self.full_bytes

    @cached_property
    def on_meta(self) -> EmbeddingTable:
        """The table on the meta device: its layout without its memory."""
        on_meta = replace(self.options, device="meta")
        return build_table(self.method, self.vocabularies, self.embedding_dim, self.config, on_meta)

    def build(self) -> EmbeddingTable:
        """Allocate the table."""
        return build_table(self.method, self.vocabularies, self.embedding_dim, self.config, self.options)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "revision": get_method(self.method).revision,
            "module": get_method(self.method).module,
            "config": config_to_json(self.config),
            "embedding_dim": self.embedding_dim,
            "rows": self.options.rows,
            "budget_bytes": self.budget_bytes,
            "budget_share": self.budget_share,
            "serving_bytes": self.serving.bytes,
            "serving_at_most": self.at_most,
            "serving_bytes_by_kind": {} if self.at_most else self.serving.by_kind(),
            "training_bytes": self.training.bytes,
            "training_bytes_by_kind": self.training.by_kind(),
            "next_bytes": self.next_bytes,
            "full_bytes": self.full_bytes,
            "ratio": self.ratio,
            "map_bytes": self.map_bytes,
            "count_ids": self.count_ids,
        }


class InfeasibleTraining(InfeasibleBudget):
    """Training a table takes more memory than there is for it.

    Attributes:
        needed: what training would hold.
    """

    def __init__(self, method: str, limit: int, needed: Ledger) -> None:
        super().__init__(method, limit, None)
        self.needed = needed
        kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in needed.by_kind().items())
        text = f"training takes {format_bytes(needed.bytes)} ({kinds}), more than the {format_bytes(limit)} there are"
        self.args = (f"{method}: {text} for it",)


def plan(
    method: str,
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    budget: str | int | None = None,
    *,
    options: TableOptions | None = None,
    train_memory: str | int | None = None,
    optimizer: str | RowTraining = "adam",
    map_bytes: int = 0,
    count_ids: bool = False,
    **method_options: Any,
) -> Plan:
    """The best use ``method`` makes of ``budget``. Nothing is allocated: tables are built on the meta device.

    Args:
        method: name of a registered method.
        vocabularies: what the table serves.
        embedding_dim: D.
        budget: bytes, as :func:`parse_budget` reads them, of the serving form of all vocabularies together; None or
            ``"none"`` for the method's own size.
        options: how the table will be held and trained.
        train_memory: most bytes that training the table may take (:mod:`rectab.tables.training_bytes`), read as
            ``budget`` is; None sets no limit.
        optimizer: of that training: ``adam``, ``adagrad`` or ``sgd``, or what else decides its bytes.
        map_bytes: of the map from raw values to ids (:func:`rectab.id_bytes.map_bytes`).
        count_ids: the budget, if there is one, is for table and map together.
        **method_options: the method's own (``num_chunks=4``).

    Raises:
        InfeasibleBudget: with the smallest feasible budget.
        InfeasibleTraining: training would take more than ``train_memory``; with what it takes.
        ValueError: there is no such method, the budget or an option is not understood, or the method cannot serve the
            vocabularies at any budget.
    """
    record, options = get_method(method), options or TableOptions()
    if not get_format(options.rows).trains:
        raise ValueError(f"rows held as {options.rows} are served and not trained; train ptq* or lsq* rows")
    full_bytes = full_table_bytes(vocabularies, embedding_dim)
    budget_bytes = resolve_budget(budget, full_bytes)
    on_meta = replace(options, device="meta")
    family = record.family_of(vocabularies, embedding_dim, on_meta, method_options)
    if budget_bytes is None:
        choice = Choice(family.without_budget())
    else:
        size = partial(bytes_of, method, vocabularies, embedding_dim, options=on_meta)
        # What is encoded after training pays for its ids then: it may leave some out.
        beside = map_bytes if count_ids and record.trained_as is None else 0
        choice = _largest(family, budget_bytes, size, method, beside)
    table = build_table(method, vocabularies, embedding_dim, choice.config, on_meta)
    serving = table.planned_serving()
    training = training_ledger(table, RowTraining(optimizer) if isinstance(optimizer, str) else optimizer)
    limit = resolve_budget(train_memory, full_bytes)
    if limit is not None and training.bytes > limit:
        raise InfeasibleTraining(method, limit, training)
    made = Plan(
        method,
        choice.config,
        tuple(vocabularies),
        embedding_dim,
        options,
        budget_bytes,
        serving,
        training,
        full_bytes,
        choice.next_bytes,
        map_bytes,
        count_ids and budget_bytes is not None,
    )
    if budget_bytes is not None and made.within_budget(serving.bytes) > budget_bytes:
        raise AssertionError(f"{method} planned {serving.bytes} bytes for a budget of {budget_bytes}: a bug of rectab")
    return made


def _largest(
    family: Family[Any], budget: int, bytes_of_config: Callable[[Any], int], method: str, beside: int
) -> Choice[Any]:
    """The largest member within the budget, of which ``beside`` bytes are taken already."""
    try:
        return largest_within(family, budget - beside, bytes_of_config, method)
    except InfeasibleBudget as error:
        if not beside or error.smallest_bytes is None:
            raise
        reason = f"{error.reason}, and {beside} bytes for the id map, which --count-ids puts under the budget"
        raise InfeasibleBudget(method, budget, error.smallest_bytes + beside, reason) from None

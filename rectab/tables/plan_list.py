"""A budget laid out for every method side by side, as ``rectab plan`` prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from rich import box
from rich.console import RenderableType
from rich.table import Table

from rectab.named import instead_of
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.budget import format_bytes, full_table_bytes, resolve_budget
from rectab.tables.collisions import Collisions, expected_collisions, squeezed
from rectab.tables.family import InfeasibleBudget
from rectab.tables.ledger import Ledger
from rectab.tables.planning import Plan, plan
from rectab.tables.registry import TableMethod, config_to_json, get_method, methods

__all__ = ["PlannedMethod", "plan_all", "plan_renderables"]

Status = Literal["planned", "infeasible", "no option", "not possible"]


@dataclass(frozen=True)
class PlannedMethod:
    """A method's plan for a budget, or why there is none.

    Attributes:
        method: name.
        status: ``infeasible`` if the method needs a larger budget, ``no option`` if it does not know an option that was
            given, ``not possible`` if it cannot serve the vocabularies or with these options.
        plan: None if there is none.
        collisions: of the planned table; None if it does not address by ranges, or if its shape is learned.
        error: why there is no plan.
        smallest_bytes: smallest feasible budget where the budget is infeasible.
        squeezed: vocabularies of few values that get fewer rows than values, see
            :func:`rectab.tables.collisions.squeezed`.
    """

    method: str
    status: Status
    plan: Plan | None = None
    collisions: Collisions | None = None
    error: str | None = None
    smallest_bytes: int | None = None
    squeezed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        planned = {} if self.plan is None else self.plan.to_json()
        collisions = None if self.collisions is None else asdict(self.collisions)
        return {
            "method": self.method,
            "status": self.status,
            **planned,
            "expected_collisions": collisions,
            "error": self.error,
            "smallest_bytes": self.smallest_bytes,
            "squeezed": list(self.squeezed),
        }


def plan_all(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    budget: str | int | None,
    names: Iterable[str] | None = None,
    method_options: dict[str, Any] | None = None,
    *,
    options: TableOptions | None = None,
    train_memory: str | int | None = None,
    map_bytes: int = 0,
    count_ids: bool = False,
) -> list[PlannedMethod]:
    """Plans of the named methods (all registered ones if None), of those that know every one of ``method_options``;
    other arguments as for :func:`rectab.tables.planning.plan`.

    Raises:
        ValueError: there is no such method, a budget is not understood, no method knows an option, an option is of
            another type, or a named method cannot serve the vocabularies or with these options.
    """
    chosen = [get_method(name) for name in names] if names else list(methods())
    given = method_options or {}
    known = list(dict.fromkeys(name for record in chosen for name in record.option_hints()))
    for name in given:
        if name not in known:
            raise ValueError(f"no option {name!r} of {', '.join(r.name for r in chosen)}{instead_of(name, known)}")
    for size in (budget, train_memory):  # one that no method can read is an error
        resolve_budget(size, full_table_bytes(vocabularies, embedding_dim))
    for record in chosen:  # and so is an option of another type
        record.read_options({name: value for name, value in given.items() if name in record.option_hints()})
    keywords = {"options": options, "train_memory": train_memory, **given}
    keywords |= {"map_bytes": map_bytes, "count_ids": count_ids}
    return [
        _planned(
            record, given, partial(plan, record.name, vocabularies, embedding_dim, budget, **keywords), bool(names)
        )
        for record in chosen
    ]


def _planned(record: TableMethod, given: Iterable[str], make: Callable[[], Plan], named: bool) -> PlannedMethod:
    """What ``make`` gives; a method that nobody named may be impossible."""
    unknown = [name for name in given if name not in record.option_hints()]
    if unknown:
        return PlannedMethod(record.name, "no option", error=f"no option {', '.join(map(repr, unknown))}")
    try:
        made = make()
    except InfeasibleBudget as error:
        return PlannedMethod(record.name, "infeasible", error=str(error), smallest_bytes=error.smallest_bytes)
    except ValueError as error:
        if named:
            raise
        return PlannedMethod(record.name, "not possible", error=str(error))
    # Of a learned size, the full table that training starts with says nothing of how rows will be shared.
    if made.at_most:
        return PlannedMethod(record.name, "planned", made)
    table = made.on_meta
    return PlannedMethod(record.name, "planned", made, expected_collisions(table), squeezed=tuple(squeezed(table)))


def plan_renderables(
    plans: Sequence[PlannedMethod], embedding_dim: int, budget: str | int | None
) -> list[RenderableType]:
    """For a terminal of 80 columns: bytes and expected sharing of every method, then what each is made of."""
    feasible = [entry.plan for entry in plans if entry.plan is not None]
    full = f", full table {format_bytes(feasible[0].full_bytes)}" if feasible else ""
    full += "".join({_map_text(made) for made in feasible})
    rows = "".join({f", rows in {made.options.rows}" for made in feasible if made.options.rows != "fp32"})
    overview = Table(
        title=f"Budget {budget}, embedding_dim {embedding_dim}{rows}{full}",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    overview.add_column("method", no_wrap=True)
    headings = ("serving", "training", "of budget", "of full", "same", "other", "shared")
    for column in headings:
        overview.add_column(column, justify="right", no_wrap=True)
    parts = Table(title="What it is made of", title_justify="left", show_header=False, box=box.SIMPLE)
    for entry in plans:
        overview.add_row(entry.method, *_overview_row(entry))
        parts.add_row(entry.method, "\n".join(_parts(entry)))
    notes = (
        "≤: at most; the method learns its size, which is counted after training. "
        if any(made.at_most for made in feasible)
        else ""
    )
    notes += (
        "same, other: ids of the same and of other vocabularies expected on the row that a lookup reads; shared:"
        " lookups whose row some other id uses; averaged over training lookups. training: rows, Adam's"
        " state, the copy of the best weights, and gradients if they are as large as the table; no activations."
    )
    return [overview, parts, notes, *(_squeezed(entry) for entry in plans if entry.squeezed)]


def _map_text(made: Plan) -> str:
    if not made.map_bytes:
        return ""
    return f", id map {format_bytes(made.map_bytes)} {'within the budget' if made.count_ids else 'beside it'}"


def _squeezed(entry: PlannedMethod) -> str:
    return (
        f"{entry.method}: vocabularies of few values share rows ({', '.join(entry.squeezed)}). Such values are met "
        "often, and telling them apart costs next to nothing: try a larger budget or another method"
    )


def _overview_row(entry: PlannedMethod) -> list[str]:
    made, sharing = entry.plan, entry.collisions
    if made is None:
        return [entry.status, *[""] * 6]
    most = "≤ " if made.at_most else ""
    shared = [f"{sharing.intra:.2f}", f"{sharing.inter:.2f}", f"{sharing.shared:.1%}"] if sharing else [""] * 3
    share = "" if made.budget_share is None else f"{made.budget_share:.1%}"
    serving, training = format_bytes(made.serving.bytes), format_bytes(made.training.bytes)
    return [f"{most}{serving}", training, share, f"{made.ratio:.1%}", *shared]


def _parts(entry: PlannedMethod) -> list[str]:
    made = entry.plan
    if made is None:
        smallest = "" if entry.smallest_bytes is None else f" ({format_bytes(entry.smallest_bytes)})"
        return [f"{entry.error}{smallest}"]
    serving = f"at most {format_bytes(made.serving.bytes)}" if made.at_most else _ledger_text(made.serving)
    if made.next_bytes is not None and get_method(made.method).fills == "steps" and not made.at_most:
        serving += f"; the next size takes {format_bytes(made.next_bytes)} ({made.next_bytes / made.full_bytes:.1%})"
    training = _ledger_text(made.training)
    if get_method(made.method).needs_full_table:
        training += ", with the full table in it"
    return [f"config: {_config_text(made)}", f"serving: {serving}", f"training: {training}"]


def _ledger_text(ledger: Ledger) -> str:
    kinds = ", ".join(f"{kind} {format_bytes(n)}" for kind, n in ledger.by_kind().items())
    return f"{format_bytes(ledger.bytes)} ({kinds})"


def _config_text(made: Plan) -> str:
    parts = []
    for key, value in config_to_json(made.config).items():
        if isinstance(value, (list, tuple)) and len(value) == len(made.vocabularies):
            by_name = (f"{v.name}:{item}" for v, item in zip(made.vocabularies, value, strict=True))
            parts.append(f"{key} " + " ".join(by_name))
        else:
            parts.append(f"{key}={value}")
    return "  ".join(parts) or "(nothing to choose)"

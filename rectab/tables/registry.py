"""The table methods there are: one frozen record each. Tests, CLI, docs and sweeps are driven by it.

A new method is one file in :mod:`rectab.tables` that ends with ``register(TableMethod(...))``, and one import in
``rectab/tables/__init__.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from rectab.named import find_named
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions

__all__ = [
    "InfeasibleBudget",
    "ServingForm",
    "TableMethod",
    "build_table",
    "config_from_json",
    "config_to_json",
    "get_method",
    "methods",
    "register",
    "register_serving_form",
]


class InfeasibleBudget(ValueError):
    """No configuration of a method serves these vocabularies within the budget.

    Attributes:
        method: name of the method.
        budget_bytes: what was asked for.
        smallest_bytes: the smallest budget the method can serve; None if it can serve none.
    """

    def __init__(self, method: str, budget_bytes: int, smallest_bytes: int | None, reason: str = "") -> None:
        self.method = method
        self.budget_bytes = budget_bytes
        self.smallest_bytes = smallest_bytes
        smallest = "no budget is feasible" if smallest_bytes is None else f"the smallest feasible is {smallest_bytes}"
        super().__init__(
            f"{method}: a budget of {budget_bytes} bytes is infeasible; {smallest}" + (f" ({reason})" if reason else "")
        )


@dataclass(frozen=True)
class TableMethod:
    """A way to hold embeddings.

    Attributes:
        name: as users write it; lower case.
        summary: one line.
        paper: where it comes from.
        config: a frozen dataclass, JSON round-trip by field.
        table: the module.
        plan: ``plan(vocabularies, embedding_dim, budget_bytes, options, **method_options)`` gives the config that
            uses a budget best (or, for None, the method's own size). Raises InfeasibleBudget. Its options are its
            keyword-only arguments or, where it takes ``**settings``, the fields of ``config``.
        any_budget: True if it can hit (nearly) any number of bytes; False if it has one size (``full``), which a sweep
            runs once, without a budget.
        staged: trained in more than one stage.
        full_table_to_train: needs the full table in memory while training.
        needs_counts: needs training counts of ids.
        hashed_vocabularies: serves vocabularies without a closed set of ids.
        serves_any_id: with ``unseen=None`` it serves an id outside a fitted vocabulary like any other (unless it keeps
            that vocabulary whole); without the flag the contract refuses the id before the method sees it.
        exportable: torch.export and ONNX.
        shardable: its storage is plain rows, so torchrec can shard it.
        revision: of what training gives; raise it when the same config trains to other numbers, so that a sweep does
            not take its old runs for new ones.
    """

    name: str
    summary: str
    paper: str
    config: type
    table: type[EmbeddingTable]
    plan: Callable[..., Any]
    any_budget: bool
    staged: bool = False
    full_table_to_train: bool = False
    needs_counts: bool = False
    hashed_vocabularies: bool = True
    serves_any_id: bool = False
    exportable: bool = True
    shardable: bool = True
    revision: int = 1

    def capabilities(self) -> dict[str, bool]:
        """The flags, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type in (bool, "bool")}

    def option_names(self) -> tuple[str, ...]:
        """Names of the options that ``plan`` takes."""
        parameters = inspect.signature(self.plan).parameters
        names = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            names += [f.name for f in fields(self.config) if f.name not in parameters]
        return tuple(names)


@dataclass(frozen=True)
class ServingForm:
    """A table that the training of a staged method ends in. It is built, saved and loaded like a method's own table,
    but it cannot be planned: what it keeps was learned.

    Attributes:
        name: ``method.form``.
        config: a frozen dataclass, JSON round-trip by field.
        table: the module.
    """

    name: str
    config: type
    table: type[EmbeddingTable]


_METHODS: dict[str, TableMethod] = {}
_SERVING_FORMS: dict[str, ServingForm] = {}


def register(method: TableMethod) -> None:
    """Add a method. Raises ValueError for a name that is taken or not lower case, or a config that is not frozen."""
    if method.name != method.name.lower() or not method.name.replace("_", "").isalnum():
        raise ValueError(f"method name {method.name!r} must be lower-case letters, digits and _")
    if method.name in _METHODS:
        raise ValueError(f"a method named {method.name!r} is registered already")
    if not is_dataclass(method.config) or not method.config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"{method.name}: the config must be a frozen dataclass")
    method.table.method, method.table.serves_any_id = method.name, method.serves_any_id
    _METHODS[method.name] = method


def register_serving_form(form: ServingForm) -> None:
    """Make a serving form known to :func:`build_table` and to ``load_table``. Raises ValueError for a name taken."""
    if form.name in _SERVING_FORMS:
        raise ValueError(f"a serving form named {form.name!r} is registered already")
    form.table.method = form.name
    _SERVING_FORMS[form.name] = form


def methods() -> tuple[TableMethod, ...]:
    """Every registered method, in order of registration."""
    return tuple(_METHODS.values())


def get_method(name: str) -> TableMethod:
    """The named method. Raises ValueError that lists what there is."""
    return find_named("table method", _METHODS, name)


def _buildable(name: str) -> TableMethod | ServingForm:
    return _SERVING_FORMS[name] if name in _SERVING_FORMS else get_method(name)


def build_table(
    method: str,
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    config: Any,
    options: TableOptions | None = None,
) -> EmbeddingTable:
    """A table of the named method or serving form.

    Raises:
        ValueError: there is no such method, or the config or ``embedding_dim`` is not valid.
        TypeError: ``config`` is that of another method.
    """
    record = _buildable(method)
    if not isinstance(config, record.config):
        raise TypeError(f"{method} takes a {record.config.__name__}, got {type(config).__name__}")
    return record.table(vocabularies, embedding_dim, config, options)


def config_to_json(config: Any) -> dict[str, Any]:
    """A config as plain data."""
    return asdict(config)


def config_from_json(method: str, data: Mapping[str, Any]) -> Any:
    """Read :func:`config_to_json` back. Raises ValueError for an unknown method or unknown fields."""
    record = _buildable(method)
    known = {f.name for f in fields(record.config)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{method}: unknown config fields {unknown}; there are {sorted(known)}")
    return record.config(**{key: _to_tuple(value) for key, value in data.items()})


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(item) for item in value) if isinstance(value, list) else value

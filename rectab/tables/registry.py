"""The table methods there are: one frozen record each. Tests, CLI, docs and sweeps are driven by it.

A new method is one file in :mod:`rectab.tables` that ends with ``register(TableMethod(...))``, and one import in
``rectab/tables/__init__.py``. What its training may end in, if that is another table, has a record too, without a
family: it is built, saved and loaded like any table and cannot be planned.

A method that is trained as another method's table and encoded afterwards names that one in ``trained_as``: runs that
differ only in how they encode then need one training, and a run of the other method may be it
(:mod:`rectab.training.shared`). Its config has the ``widths`` to train; :mod:`rectab.training.one_run` trains them and
encodes by :mod:`rectab.quantize`. Its table is that of the other method; with a trainer alone,
:meth:`EmbeddingTable.train_with` trains it and goes on with the encoded form (``trainer.restart``), and
``planned_serving`` gives the bytes of that form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from rectab.named import find_named, instead_of
from rectab.ops import LatentFormat, get_format
from rectab.plain import read_plain, read_value
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.plugins import load_plugins, module_outside

__all__ = [
    "GROUPS",
    "Group",
    "TableMethod",
    "build_table",
    "bytes_of",
    "config_from_json",
    "config_to_json",
    "find_record",
    "get_method",
    "methods",
    "register",
    "shares_training",
]

Group = Literal[
    "reference", "static encoding", "dynamic encoding", "quantisation", "dimension reduction", "pruning", "other"
]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class TableMethod:
    """A way to hold embeddings.

    Attributes:
        name: as users write it; lower case. A form that training ends in is called ``method.form``.
        summary: one line.
        config: a frozen dataclass, JSON round-trip by field.
        table: the module.
        family: ``family(vocabularies, embedding_dim, options, **method_options)`` gives the configs that a budget
            chooses from. Its options are its keyword-only arguments or, where it takes ``**settings``, the fields of
            ``config`` that are not marked as planned (``metadata={"planned": True}``); their types are checked before
            it is called. None if the table cannot be planned: what it keeps was learned.
        fills: how closely a budget is used: ``any`` number of bytes to 97 % or more, in ``steps``, or ``one`` size,
            which a sweep runs once, without a budget.
        paper: where it comes from.
        group: where it stands among the others, by the taxonomy of Zhang et al. ("Experimental Analysis of Large-scale
            Learnable Vector Storage Compression", VLDB 2024). Ids share parameters by a rule fixed beforehand (``static
            encoding``) or by what training shows (``dynamic encoding``); or each keeps its own, in fewer bits
            (``quantisation``), fewer elements (``dimension reduction``) or with some left out (``pruning``).
        learns_from_validation: its stages train on one half of the validation rows, and the other half selects.
        size_after_training: how large it ends is known after training; before it, a plan is a bound.
        needs_own_trainer: trained by :meth:`EmbeddingTable.train_with`, which a host's loop does not call.
        serves_any_id: any int64 is an id to it: it serves hashed vocabularies and, with ``unseen=None``, ids outside a
            fitted one (unless it keeps that one whole). Without the flag the contract refuses both.
        needs_counts: needs training counts of ids.
        needs_full_table: holds the full table while it trains.
        holds: what it holds instead of rows in a format that could be chosen, for people to read; empty for all others.
            Such a method takes fp32 alone, the name of "as it is".
        makes_rows: what it serves is computed of its rows when training ends (codes, a product): it takes no format
            whose steps are learned.
        row_gradients_only: its rows are updated by row optimizers alone.
        trained_as: the method whose training it shares, see the module's text; None if it has its own.
        revision: of what training gives; raise it when the same config trains to other numbers, so that a sweep does
            not take its old runs for new ones.
    """

    name: str
    summary: str
    config: type
    table: type[EmbeddingTable]
    family: Callable[..., Family[Any]] | None = None
    fills: Literal["any", "steps", "one"] = "any"
    paper: str = ""
    group: Group = "other"
    learns_from_validation: bool = False
    size_after_training: bool = False
    needs_own_trainer: bool = False
    serves_any_id: bool = False
    needs_counts: bool = False
    needs_full_table: bool = False
    holds: str = ""
    makes_rows: bool = False
    row_gradients_only: bool = False
    trained_as: str | None = None
    revision: int = 1

    @property
    def module(self) -> str | None:
        """The module that a method from outside the package is of; None for rectab's own."""
        return module_outside(self.table)

    def capabilities(self) -> dict[str, bool]:
        """The flags, by name."""
        flags = {f.name: getattr(self, f.name) for f in fields(self) if f.type in (bool, "bool")}
        return flags | {"without_rows": self.without_rows}

    @property
    def without_rows(self) -> bool:
        """Whether no row format can be chosen for it."""
        return bool(self.holds)

    def check_rows(self, rows: str) -> None:
        """Raises ValueError for a row format that the method cannot be held in."""
        if rows != "fp32" and self.without_rows:
            raise ValueError(f"{self.name} takes no row format, as it holds {self.holds}; leave rows at fp32 for it")
        held = get_format(rows)
        if not isinstance(held, LatentFormat):
            return
        if self.trained_as is not None:
            raise ValueError(f"{self.name} chooses the bits of its rows after training; leave rows at fp32 for it")
        if self.makes_rows and held.learned:
            raise ValueError(
                f"{self.name} makes the rows that it serves when training ends, so none could learn their steps; "
                "use ptq8, ptq4 or ptq2"
            )

    def check_gradient(self, gradient: str) -> None:
        """Raises ValueError for gradients that the method's rows do not have."""
        if gradient != "row" and self.row_gradients_only:
            raise ValueError(f"{self.name} is trained by row gradients alone; use gradient 'row' and a row optimizer")

    def option_hints(self) -> dict[str, Any]:
        """Name and type of every option that ``family`` takes."""
        if self.family is None:
            return {}
        parameters, hints = inspect.signature(self.family).parameters.values(), get_type_hints(self.family)
        options = {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            hints = get_type_hints(self.config)
            options |= {f.name: hints[f.name] for f in fields(self.config) if not f.metadata.get("planned")}
        return options

    def read_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as their types want them. Raises ValueError for one that is unknown or of another type."""
        hints = self.option_hints()
        for name in given:
            if name not in hints:
                raise ValueError(f"{self.name}: unknown option {name!r}{instead_of(name, hints)}")
        return {name: read_value(hints[name], value, f"{self.name}.{name}") for name, value in given.items()}

    def family_of(
        self, vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, given: Mapping[str, Any]
    ) -> Family[Any]:
        """The family under the method's ``given`` options.

        Raises:
            ValueError: an option is unknown, of another type or out of range; or the vocabularies lack counts.
        """
        assert self.family is not None
        read = self.read_options(given)
        uncounted = [v.name for v in vocabularies if v.counts is None]
        if self.needs_counts and uncounted:
            raise ValueError(f"{self.name} needs training counts of ids; vocabularies {uncounted} have none")
        return self.family(vocabularies, embedding_dim, options, **read)


_RECORDS: dict[str, TableMethod] = {}


def register(method: TableMethod) -> None:
    """Add a method.

    Raises:
        ValueError: its name is taken or not lower case, there is no such group, or its config is not frozen.
    """
    if method.name != method.name.lower() or not method.name.replace("_", "").replace(".", "", 1).isalnum():
        raise ValueError(f"method name {method.name!r} must be lower-case letters, digits and _")
    if ("." in method.name) != (method.family is None):
        raise ValueError(f"{method.name}: a form that training ends in is called method.form and has no family")
    if method.name in _RECORDS:
        raise ValueError(f"a method named {method.name!r} is registered already")
    if method.group not in GROUPS:
        raise ValueError(f"{method.name}: group must be one of {', '.join(GROUPS)}, got {method.group!r}")
    if not is_dataclass(method.config) or not method.config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"{method.name}: the config must be a frozen dataclass")
    method.table.method, method.table.serves_any_id = method.name, method.serves_any_id
    _RECORDS[method.name] = method


def methods() -> tuple[TableMethod, ...]:
    """Every method that can be planned, in order of registration; those of plugins last."""
    load_plugins()
    return tuple(record for record in _RECORDS.values() if record.family is not None)


def get_method(name: str) -> TableMethod:
    """The named method. Raises ValueError that lists what there is."""
    return find_named("table method", {record.name: record for record in methods()}, name)


def shares_training(name: str) -> bool:
    """Whether one training may serve several runs of the named method: its table is encoded of another method's, or
    others are of its own."""
    every = methods()
    return get_method(name).trained_as is not None or name in {record.trained_as for record in every}


def find_record(name: str) -> TableMethod:
    """The named method, or form that training ends in. Raises ValueError that lists the methods."""
    if name not in _RECORDS:
        load_plugins()
    return _RECORDS[name] if name in _RECORDS else get_method(name)


def build_table(
    method: str,
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    config: Any,
    options: TableOptions | None = None,
) -> EmbeddingTable:
    """A table of the named method or form.

    Raises:
        ValueError: there is no such method, or config, ``embedding_dim``, row format or gradient are not valid for it.
        TypeError: ``config`` is that of another method.
    """
    record = find_record(method)
    if not isinstance(config, record.config):
        raise TypeError(f"{method} takes a {record.config.__name__}, got {type(config).__name__}")
    if options is not None:
        record.check_rows(options.rows)
        record.check_gradient(options.gradient)
    return record.table(vocabularies, embedding_dim, config, options)


def bytes_of(
    method: str, vocabularies: Sequence[Vocabulary], embedding_dim: int, config: Any, options: TableOptions
) -> int:
    """Serving bytes of a table that is built on the meta device, to be counted."""
    on_meta = replace(options, device="meta")
    return build_table(method, vocabularies, embedding_dim, config, on_meta).planned_serving().bytes


def config_to_json(config: Any) -> dict[str, Any]:
    """A config as plain data.

    Fields that came later (``metadata={"later": True}``) are left out where they say what was so before there were any,
    so that runs keep their identity.
    """
    later = {f.name: f.default for f in fields(config) if f.metadata.get("later")}
    return {name: value for name, value in asdict(config).items() if name not in later or value != later[name]}


def config_from_json(method: str, data: Mapping[str, Any]) -> Any:
    """Read :func:`config_to_json` back. Raises ValueError for an unknown method, or for fields that do not fit it."""
    return read_plain(find_record(method).config, data, f"{method} config")

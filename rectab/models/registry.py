"""The interactions and history towers there are: one frozen record each, found by name.

A new one is one file in :mod:`rectab.models` that ends with ``register_interaction(...)`` or ``register_tower(...)``,
and one import in ``rectab/models/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rectab.named import find_named
from rectab.plain import read_plain

if TYPE_CHECKING:
    from rectab.models.history import HistoryTower
    from rectab.models.interaction import Interaction

__all__ = [
    "InteractionInfo",
    "TowerInfo",
    "get_interaction",
    "get_tower",
    "interactions",
    "options_to_config",
    "register_interaction",
    "register_tower",
    "towers",
]


@dataclass(frozen=True)
class InteractionInfo:
    """How the fields of a row become its logit.

    Attributes:
        name: as users write it.
        summary: one line.
        paper: where it comes from.
        config: a frozen dataclass of its options.
        module: ``module(num_fields, embedding_dim, num_dense, config)``.
    """

    name: str
    summary: str
    paper: str
    config: type
    module: type[Interaction]


@dataclass(frozen=True)
class TowerInfo:
    """How the history of one behaviour becomes interest vectors.

    Attributes:
        name: as users write it.
        summary: one line.
        paper: where it comes from.
        config: a frozen dataclass of its options.
        module: ``module(features, embedding_dim, config)``; None for the tower that ignores histories.
    """

    name: str
    summary: str
    paper: str
    config: type
    module: type[HistoryTower] | None


InfoT = TypeVar("InfoT", InteractionInfo, TowerInfo)

_INTERACTIONS: dict[str, InteractionInfo] = {}
_TOWERS: dict[str, TowerInfo] = {}


def register_interaction(info: InteractionInfo) -> None:
    """Add an interaction. Raises ValueError for a name that is taken or a config that is not a frozen dataclass."""
    _add("interaction", _INTERACTIONS, info)


def register_tower(info: TowerInfo) -> None:
    """Add a history tower. Raises ValueError for a name that is taken or a config that is not a frozen dataclass."""
    _add("history tower", _TOWERS, info)


def interactions() -> tuple[InteractionInfo, ...]:
    """Every registered interaction, in order of registration."""
    return tuple(_INTERACTIONS.values())


def towers() -> tuple[TowerInfo, ...]:
    """Every registered history tower, in order of registration."""
    return tuple(_TOWERS.values())


def get_interaction(name: str) -> InteractionInfo:
    """The named interaction. Raises ValueError that lists what there is."""
    return find_named("interaction", _INTERACTIONS, name)


def get_tower(name: str) -> TowerInfo:
    """The named history tower. Raises ValueError that lists what there is."""
    return find_named("history tower", _TOWERS, name)


def options_to_config(info: InteractionInfo | TowerInfo, options: Mapping[str, Any]) -> Any:
    """The config of ``info`` from plain options by name and type. Raises ValueError for one that does not fit."""
    return read_plain(info.config, options, info.name)


def _add(what: str, registry: dict[str, InfoT], info: InfoT) -> None:
    if info.name in registry:
        raise ValueError(f"{what} {info.name!r} is registered already")
    if not is_dataclass(info.config) or not info.config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"{what} {info.name!r}: the config must be a frozen dataclass")
    registry[info.name] = info

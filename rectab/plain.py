"""Plain data (JSON, TOML, a command line) read into dataclasses: every value is checked against its field's type.

What is wrong is said by name, in the words of the one who wrote it: the place, what was wanted, what was found, and the
nearest name where one is unknown. Whoever reads a file adds the file's name.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rectab.named import instead_of

__all__ = ["check_fields", "differences", "parse_json", "read_plain", "read_value"]

DataT = TypeVar("DataT")

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80


def parse_json(text: str | bytes) -> Any:
    """What a JSON document says. Raises ValueError also for NaN, Infinity and nesting without end."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def differences(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What a file was made for and is now asked for, where the two differ as JSON; empty where they do not."""
    plain = json.loads(json.dumps(asked))
    other = [name for name in {**plain, **kept} if kept.get(name) != plain.get(name)]
    return "; ".join(f"{name} {kept.get(name)!r}, asked {plain.get(name)!r}" for name in other)


def read_plain(kind: type[DataT], data: Any, place: str = "", *, extra: bool = False) -> DataT:
    """An instance of the dataclass ``kind`` from a mapping of its fields.

    Args:
        kind: its fields may be numbers, text, ``Literal``, tuples, dicts and dataclasses of these, or None.
        data: the mapping; lists stand for tuples.
        place: what ``data`` is, for errors (``train``).
        extra: leave unknown keys out instead of refusing them.

    Raises:
        ValueError: an unknown or missing key, a value of another type, or one that ``kind`` itself refuses.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{_subject(place)} must be settings by name, got {_shown.repr(data)}")
    hints = _hints(kind)  # type: ignore[arg-type]
    unknown = [key for key in data if key not in hints]
    if unknown and not extra:
        raise ValueError(f"{_in(place)}unknown key {_shown.repr(unknown[0])}{instead_of(str(unknown[0]), hints)}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = [name for name in needed if name not in data]
    if missing:
        raise ValueError(f"{_in(place)}{missing[0]!r} is missing")
    named = {key: data[key] for key in data if key in hints}
    return kind(**{key: read_value(hints[key], value, _below(place, key)) for key, value in named.items()})


def check_fields(instance: Any) -> None:
    """For ``__post_init__`` of a frozen dataclass: every field as :func:`read_value` reads it. Raises ValueError."""
    for name, kind in _hints(type(instance)).items():  # type: ignore[arg-type]
        object.__setattr__(instance, name, read_value(kind, getattr(instance, name), name))


def read_value(kind: Any, value: Any, place: str) -> Any:
    """``value`` as a type hint wants it: lists become tuples, whole floats ints.

    Raises:
        ValueError: it is of another type; the message names ``place``.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _read_union(arguments, value, place)
    if origin is tuple and isinstance(value, (list, tuple)) and arguments[-1:] == (...,):
        return tuple(read_value(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        items = [(read_value(arguments[0], key, f"a key of {place}"), key) for key in value]
        return {name: read_value(arguments[1], value[key], _below(place, key)) for name, key in items}
    if origin is list and isinstance(value, list):
        return [read_value(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if is_dataclass(kind) and isinstance(value, Mapping):
        return read_plain(kind, value, place)  # type: ignore[arg-type]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not _is(kind, origin, arguments, value):
        raise ValueError(f"{place} must be {_words(kind)}, got {_shown.repr(value)}")
    return value


def _read_union(choices: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and NoneType in choices:
        return None
    rest = [choice for choice in choices if choice is not NoneType]
    for choice in rest:
        try:
            return read_value(choice, value, place)
        except ValueError:
            if len(rest) == 1:
                raise
    raise ValueError(f"{place} must be {' or '.join(map(_words, rest))}, got {_shown.repr(value)}")


def _is(kind: Any, origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if kind in (int, float):
        number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return number and (isinstance(value, int) or math.isfinite(value))
    return kind in (bool, str, NoneType) and isinstance(value, kind)


def _words(kind: Any) -> str:
    """``a list of whole numbers``."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "nothing"}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in plain:
        return plain[kind]
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (tuple, list):
        return f"a list, each {_words(arguments[0])}"
    if origin in (Union, UnionType):
        return " or ".join(_words(argument) for argument in arguments if argument is not NoneType)
    return "settings by name" if origin in (dict, Mapping) or is_dataclass(kind) else f"of type {kind}"


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _subject(place: str) -> str:
    return place or "the whole"


def _in(place: str) -> str:
    return f"{place}: " if place else ""


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)

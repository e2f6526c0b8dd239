"""What is wrong with a file that users write: keys, the values they may have, the nearest name to a misspelt one."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from rectab.named import instead_of

__all__ = ["explain"]

_NEEDED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text in quotes",
    "tuple": "a list, [...]",
    "list": "a list, [...]",
    "dict": "a table, { key = value }",
    "model": "a table, { key = value }",
}
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "literal_error": "one of {expected}",
}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every problem with its place, such as ``features[0].bins``; ``model`` is what was read."""
    told = []
    for problem in error.errors():
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        what = _what(dict(problem), model)
        told.append(f"{place}: {what}" if place else what)
    return "; ".join(dict.fromkeys(told))


def _what(problem: dict[str, Any], model: type[BaseModel]) -> str:
    kind, given = str(problem["type"]), problem.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{instead_of(str(problem['loc'][-1]), _keys_at(model, problem['loc'][:-1]))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**problem['ctx'])}, got {given!r}"
    needed = next((words for start, words in _NEEDED.items() if kind.startswith(start)), None)
    return f"must be {needed}, got {given!r}" if needed else f"may not be {given!r}"


def _keys_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys of the table at ``place`` within ``model``."""
    for part in place:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_models_of(field.annotation), model)
    return list(model.model_fields)


def _models_of(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_of(argument)

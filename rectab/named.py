"""Things found by name, and what is said of a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["find_named", "instead_of"]

ItemT = TypeVar("ItemT")


def find_named(what: str, known: Mapping[str, ItemT], name: str) -> ItemT:
    """``known[name]``. Raises ValueError that lists what there is, and the nearest name if one is near."""
    if name in known:
        return known[name]
    raise ValueError(f"no {what} {name!r}{instead_of(name, known)}")


def instead_of(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says there is no such name: the nearest one if one is near, and all there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} There are: {', '.join(names)}" if names else ". There are none"

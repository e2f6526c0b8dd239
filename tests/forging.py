"""Whole files that say something else than they hold: a description changed anywhere, its checksum made anew."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rectab.tables.files import checksum

Place = tuple[Any, ...]

NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63, 10**9, 10**30, -(10**30), 0.5, 4.0, -1.5, 1e300])
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.integers()
    | st.sampled_from(["", "x", "full", "zero", "int8", "\ud800", "a" * 300]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "x", "hidden"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in nested dicts and lists, outermost first."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """``value`` with one place replaced, taken away or doubled."""
    made = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *outer, last = draw(st.sampled_from([place for place in places(made) if place]))
        holder = made
        for key in outer:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"]))
        if how == "replace":
            holder[last] = draw(ANY_JSON)
        elif how == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(holder[last])
        else:
            holder[f"{last}2"] = holder[last]
    return made


def contents(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description without its checksum, tensors) of a file of rectab."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()[f"rectab_{kind}"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del description["checksum"]
    return description, tensors


def forge(path: Path, kind: str, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write them as a file whose checksum is right."""
    text = json.dumps({**description, "checksum": checksum(description, tensors)})
    save_file(tensors, path, metadata={f"rectab_{kind}": text})

"""Plain data against the types of a dataclass: what fits is read, everything else is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from rectab.plain import parse_json, read_plain


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    size: int
    rate: float = 0.5
    form: Literal["auto", "dense"] = "auto"
    deep: bool = False
    limit: int | None = None
    blocks: tuple[tuple[float, ...], ...] = ()
    inner: Inner = Inner()
    free: Any = None
    names: dict[str, int] = field(default_factory=dict)


def test_what_fits_is_read() -> None:
    data = {"size": 3.0, "rate": 1, "form": "dense", "deep": True, "limit": None, "blocks": [[0.5, 1], []]}
    read = read_plain(Outer, {**data, "inner": {"widths": [1, 2]}, "free": [{}], "names": {"a": 1}})
    assert read == Outer(3, 1, "dense", True, None, ((0.5, 1), ()), Inner((1, 2)), [{}], {"a": 1})
    assert isinstance(read.size, int)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "table must be settings by name, got \\[\\]"),
        ({}, "table: 'size' is missing"),
        ({"size": 1, "formm": "auto"}, "table: unknown key 'formm'; did you mean 'form'"),
        ({"size": "8"}, "table.size must be a whole number, got '8'"),
        ({"size": True}, "table.size must be a whole number, got True"),
        ({"size": 1.5}, "table.size must be a whole number, got 1.5"),
        ({"size": None}, "table.size must be a whole number, got None"),
        ({"size": float("inf")}, "table.size must be a whole number, got inf"),
        ({"size": 1, "rate": float("nan")}, "table.rate must be a number, got nan"),
        ({"size": 1, "rate": False}, "table.rate must be a number, got False"),
        ({"size": 1, "form": "x"}, "table.form must be one of auto, dense, got 'x'"),
        ({"size": 1, "form": ["auto"]}, "table.form must be one of auto, dense"),
        ({"size": 1, "deep": 1}, "table.deep must be true or false, got 1"),
        ({"size": 1, "limit": "x"}, "table.limit must be a whole number, got 'x'"),
        ({"size": 1, "blocks": [[1], ["x"]]}, r"table.blocks\[1\]\[0\] must be a number, got 'x'"),
        ({"size": 1, "blocks": "64,32"}, "table.blocks must be a list, each a list, each a number, got '64,32'"),
        ({"size": 1, "inner": {"widths": 5}}, "table.inner.widths must be a list, each a whole number, got 5"),
        ({"size": 1, "inner": 5}, "table.inner must be settings by name, got 5"),
        ({"size": 1, "names": {"a": "x"}}, "table.names.a must be a whole number, got 'x'"),
    ],
)
def test_what_does_not_fit_is_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plain(Outer, data, "table")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no number of JSON"),
        ("[Infinity]", "Infinity is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "line 1 column 2"),
    ],
)
def test_json_that_no_other_reader_takes_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_values_are_shown_however_deep_they_are() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="size must be a whole number"):
        read_plain(Outer, {"size": value})

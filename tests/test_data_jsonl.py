"""Files of one object a line: values mean what they would in delimited text, bad lines are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rectab.data import DataError, jsonl
from rectab.data.jsonl import open_jsonl
from rectab.data.recipe_files import Format
from rectab.data.text import TextFile

Open = Callable[..., TextFile]


@pytest.fixture
def open_lines(tmp_path: Path) -> Open:
    def open_text(text: str, skip_bad: bool = False, **form: Any) -> TextFile:
        path = tmp_path / "a[1].jsonl"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        how = Format.model_validate({"kind": "jsonl", "fields": {"x": "x"}, **form})
        return open_jsonl(path, how, tmp_path, skip_bad, "line")

    return open_text


def rows(file: TextFile) -> list[tuple[Any, ...]]:
    return file.frame.collect().rows()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", None),
        (None, None),
        (7, "7"),
        (7.0, "7"),
        (-0.5, "-0.5"),
        (1e20, "100000000000000000000"),
        (float("nan"), None),
        (True, "1"),
        (False, "0"),
        ([1, 2.0, "é", None, float("nan")], '["1", "2", "é", null, null]'),
        ([], "[]"),
        ({"b": 1}, '{"b": 1}'),
        ("漢\n", "漢\n"),
    ],
)
@pytest.mark.parametrize("literals", [False, True])
def test_values_become_text(open_lines: Open, value: Any, text: str | None, literals: bool) -> None:
    if literals and value != value:
        return  # NaN is no Python literal
    line = repr({"x": value}).replace("nan", "None") if literals else json.dumps({"x": value})
    assert rows(open_lines(line, python_literals=literals)) == [(text, 1)]


def test_paths_reach_into_objects_and_lists(open_lines: Open) -> None:
    fields = {"a": "x.y", "b": "x.z.-1.0", "c": "x.z.9", "d": "x.y.0.k"}
    file = open_lines('{"x": {"y": "p", "z": [1, ["q"]]}}\n[1]\n3', fields=fields)
    assert rows(file) == [("p", "q", None, None, 1), (None,) * 4 + (2,), (None,) * 4 + (3,)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_lines_and_a_byte_order_mark_are_passed_over(open_lines: Open, newline: str) -> None:
    text = "\ufeff" + newline.join(['{"x": 1}', "", "  ", '{"x": 2}', "", ""])
    assert rows(open_lines(text)) == [("1", 1), ("2", 4)]
    assert rows(open_lines("")) == []


BAD = {
    '{"x": "\\ud800"}': "surrogate",
    '{"x": ["a\\udfff"]}': "surrogate",
    '{"x": ' + "[" * 50_000 + "]" * 50_000 + "}": "nested too deep",
    '{"x": 1': "not readable",
    '{"x": 1} {"x": 2}': "not readable",
    '{"x": "\ud800"}': "byte 8 of the line is not UTF-8",
    "x": "not readable",
}


@pytest.mark.parametrize("line", sorted(BAD), ids=sorted(BAD.values()))
def test_lines_that_cannot_be_read_are_named_or_skipped(
    open_lines: Open, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "_PART_ROWS", 1)
    text = f'{{"x": 1}}\n\n{line}\n{{"x": 2}}\n'
    with pytest.raises(DataError, match=rf"a\[1\]\.jsonl, line 3: .*{BAD[line]}"):
        open_lines(text)
    file = open_lines(text, skip_bad=True)
    assert rows(file) == [("1", 1), ("2", 4)]
    assert file.dropped == 1
    assert "line 3" in file.problems[0]


def test_python_literals_that_nest_too_deep_are_bad_lines(open_lines: Open) -> None:
    text = "{'x': " + "[" * 50_000 + "]" * 50_000 + "}\n{'x': 'a'}\n"
    assert rows(open_lines(text, skip_bad=True, python_literals=True)) == [("a", 2)]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1704412800.123456789", "1704412800.123456789"),
        ("9007199254740993.0", "9007199254740993"),
        ("1e3", "1000"),
        ("1e-7", "1e-7"),
        ("1e999999", "1e999999"),
        ("1e99999999999999999999", "1e99999999999999999999"),
    ],
)
def test_no_digit_of_a_number_is_lost(open_lines: Open, number: str, text: str) -> None:
    assert rows(open_lines(f'{{"x": {number}}}')) == [(text, 1)]

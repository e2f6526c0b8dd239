"""Lists of events in a row, however they are written, and labels that are words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_helpers import prepared, raw_lines, recipe, values_of

from rectab.data import DataError, prepare
from rectab.data.lists import split_lists


@pytest.mark.parametrize(
    ("text", "separator", "elements"),
    [
        ("1|2|3", "|", ["1", "2", "3"]),
        ("1|2|", "|", ["1", "2"]),
        ("1||2", "|", ["1", "", "2"]),
        (" 1, 2 ,3, ", ",", ["1", " 2 ", "3"]),
        ("1,2", ", ", ["1", "2"]),
        ("1  2 3", " ", ["1", "2", "3"]),
        ("a\tb", "\t", ["a", "b"]),
        ("[1, 2]", None, ["1", "2"]),
        ("[1, 2]", ",", ["1", "2"]),
        (" [] ", "|", []),
        ('["a, b", "caf\\u00e9", null]', None, ["a, b", "café", None]),
        ("['a', \"it's\"]", None, ["a", "it's"]),
        ("[1 2\n 3]", None, ["1", "2", "3"]),
        ("[two words]", None, ["two words"]),
        ("[nan, 1.0]", None, ["nan", "1.0"]),
        ("[a|b]", "|", ["a", "b"]),
        ("[REC]|Alien", "|", ["[REC]", "Alien"]),
        ("[REC]|[X]", "|", ["[REC]", "[X]"]),
        ("one", "|", ["one"]),
        (None, "|", None),
        ("1|2", None, None),
        ("[1, 2", ",", None),
        ("[[1], [2]]", None, None),
        ('["\\ud800"]', None, None),
    ],
)
def test_lists_as_text(text: str | None, separator: str | None, elements: list[str | None] | None) -> None:
    for others in ([], ["[1]"], ["['x']"], ["a|b"]):  # the way of one cell must not depend on the others
        lists = split_lists(pl.Series([text, *others], dtype=pl.String), separator)
        assert lists[0].to_list() == elements if elements is not None else lists[0] is None


ITEMS = [["i1", "i2"], ["i2"], [], ["i3", "i1", "i2"]]
HISTORY = {"behaviour": "seen", "source": "list", "sequences": [{"name": "h", "column": "past", "target": "item"}]}


def written(path: Path, column: pl.Series) -> None:
    frame = pl.DataFrame(raw_lines(), schema=["click", "user", "item", "time", "price", "age"], orient="row")
    frame.drop("price").with_columns(column.alias("past")).write_parquet(path)


@pytest.mark.parametrize("form", ["list", "json", "separated", "trailing", "jsonl"])
def test_however_lists_are_written_the_events_are_the_same(tmp_path: Path, form: str) -> None:
    lists = [ITEMS[i % 4] for i in range(40)]
    texts = {
        "json": [json.dumps(items) for items in lists],
        "separated": [", ".join(items) for items in lists],
        "trailing": ["".join(f"{item}|" for item in items) for items in lists],
    }
    history: dict[str, Any] = {**HISTORY}
    changes: dict[str, Any] = {"features": [{"name": "user"}, {"name": "item"}], "files": [{"path": "rows.parquet"}]}
    written(tmp_path / "rows.parquet", pl.Series(texts.get(form, lists)))
    if form in ("separated", "trailing"):
        history["separator"] = "," if form == "separated" else "|"
    if form == "jsonl":
        pl.read_parquet(tmp_path / "rows.parquet").write_ndjson(tmp_path / "rows.jsonl")
        fields = {name: name for name in ("click", "user", "item", "time", "past")}
        changes |= {"files": [{"path": "rows.jsonl"}], "format": {"fields": fields}}
    dataset = prepare(recipe(histories=[history], **changes), tmp_path, tmp_path / "out")
    events = dataset.train.batch(slice(None)).histories["h"]
    names = values_of(dataset, "item")
    assert [names[int(id_)] for id_ in events.values] == [item for items in lists[:24] for item in items]
    assert events.lengths().tolist() == [len(items) for items in lists[:24]]


def test_arrays_of_a_fixed_size_are_lists(tmp_path: Path) -> None:
    written(tmp_path / "rows.parquet", pl.Series([["i1", "i2"]] * 40, dtype=pl.Array(pl.String, 2)))
    changes: dict[str, Any] = {"features": [{"name": "user"}, {"name": "item"}], "files": [{"path": "rows.parquet"}]}
    dataset = prepare(recipe(histories=[HISTORY], **changes), tmp_path, tmp_path / "out")
    assert dataset.train.history_lengths("seen").tolist() == [2] * 24


def test_rows_whose_lists_are_of_different_lengths_are_bad_rows(tmp_path: Path) -> None:
    sequences = [*HISTORY["sequences"], {"name": "k", "column": "kind", "vocabulary": "kind"}]  # type: ignore[misc]
    written(tmp_path / "rows.parquet", pl.Series(["i1|i2"] * 40))
    kinds = pl.Series(["a|b"] * 5 + ["a|b|c"] + ["a|b"] * 34)
    pl.read_parquet(tmp_path / "rows.parquet").with_columns(kinds.alias("kind")).write_parquet(
        tmp_path / "rows.parquet"
    )
    changed = recipe(
        histories=[{**HISTORY, "separator": "|", "sequences": sequences}],
        features=[{"name": "user"}, {"name": "item"}],
        files=[{"path": "rows.parquet"}],
    )
    with pytest.raises(DataError, match=r"row 6, column 'kind': as many elements are needed as column 'past' has"):
        prepare(changed, tmp_path, tmp_path / "out")
    dataset = prepare(changed, tmp_path, tmp_path / "out", bad_rows="skip")
    assert dataset.summary["dropped"]["rows"] == 1


def test_prior_events_may_be_lists_as_text(tmp_path: Path) -> None:
    prepared(tmp_path, name="unused")
    (tmp_path / "raw/before.csv").write_text("user;past\nu1;[i1, i2]\nu2;i3,i4,\nu3;\n")
    prior = {"path": "before.csv", "lists": {"item": "past"}, "format": {"separator": ";"}}
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    history = {
        "behaviour": "seen",
        "where": "item = 'none'",
        "prior": prior,
        "separator": ",",
        "sequences": sequences,
    }
    dataset = prepare(recipe(histories=[history]), tmp_path / "raw", tmp_path / "out")
    names = values_of(dataset, "user")
    lengths = {
        names[int(u)]: int(n)
        for u, n in zip(dataset.train.column("user"), dataset.train.history_lengths("seen"), strict=True)
    }
    assert (lengths["u1"], lengths["u2"], lengths["u3"]) == (2, 2, 0)
    (tmp_path / "raw/before.csv").write_text("user;past\nu1;[i1, i2\n")
    with pytest.raises(DataError, match=r"before\.csv, line 2, column 'past': a list is needed"):
        prepare(recipe(histories=[history]), tmp_path / "raw", tmp_path / "bad")


def with_labels(words: list[str]) -> list[list[str]]:
    return [[words[i % len(words)], *row[1:]] for i, row in enumerate(raw_lines())]


def test_words_may_be_labels(tmp_path: Path) -> None:
    dataset = prepared(
        tmp_path, with_labels(["NO", "<30", " >30 "]), label={"column": "click", "positive": ["<30", ">30"]}
    )
    assert dataset.train.labels.tolist() == [float(i % 3 > 0) for i in range(24)]


@pytest.mark.parametrize("positive", [[2], ["2"], [2.0]])
def test_numbers_may_be_named_as_labels(tmp_path: Path, positive: list[object]) -> None:
    dataset = prepared(tmp_path, with_labels(["1", "2", "2.0"]), label={"column": "click", "positive": positive})
    assert dataset.train.labels.tolist() == [float(i % 3 > 0) for i in range(24)]


def test_positive_label_that_no_row_has(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no row has the positive label 'yess'; did you mean 'yes'\? There are: no, yes"
    ):
        prepared(tmp_path, with_labels(["no", "yes"]), label={"column": "click", "positive": ["yess"]})


def test_a_column_of_words_gets_advice_for_the_recipe(tmp_path: Path) -> None:
    message = r"line 2, column 'click': .*found 'NO' .and 39 more.*'<30' 20 times, 'NO' 20 times.*positive = "
    for skip in ("error", "skip"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message) as error:
            prepared(tmp_path, with_labels(["NO", "<30"]))
        assert "--bad-rows" not in str(error.value)
        with pytest.raises(DataError, match="positive = "):
            prepare(recipe(), tmp_path / "raw", tmp_path / skip, bad_rows="skip")

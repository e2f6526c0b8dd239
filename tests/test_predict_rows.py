"""Raw rows read for a trained model: the very ids, numbers and histories that ``prepare`` made, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_helpers import HEADER, prepared, raw_lines, recipe, write_lines

from rectab.data import DataError, PreparedDataset, prepare, without_features
from rectab.data.asked_rows import AskedRows
from rectab.data.split import Split
from rectab.training.inputs_file import inputs_of

FEATURES = [
    {"name": "user"},
    {"name": "item", "min_count": 3},
    {"name": "age", "bins": "quantile", "num_bins": 4},
    {"name": "price", "type": "dense", "transform": "log_standardize"},
]
SEQUENCE = [{"name": "seen", "column": "item", "target": "item"}]
LOG: dict[str, Any] = {"behaviour": "clicked", "where": "click = 1", "max_length": 3, "sequences": SEQUENCE}
GAPS = [{"name": "back", "of": "position", "edges": [2]}, {"name": "gap", "of": "time_gap", "edges": [3.0, 9.0]}]
HASHED = [{"name": "user", "hashed": True}, {"name": "item", "hashed": True, "vocabulary": "item"}]
RECIPES: dict[str, dict[str, Any]] = {
    "features": {"features": FEATURES},
    "hashed": {"features": HASHED},
    "log": {"features": FEATURES, "histories": [{**LOG, "context": GAPS}]},
    "position": {"features": FEATURES, "histories": [{**LOG, "where": None, "by": "position"}], "min_history": 1},
    "negatives": {"label": None, "negatives": {"item": "item", "ratio": 2}, "histories": [{**LOG, "where": None}]},
    "joined": {
        "features": [*FEATURES, {"name": "genre"}, {"name": "decade"}],
        "tables": [{"path": "items.csv", "on": "item", "columns": ["genre"]}],
        "derived": [{"name": "tens", "sql": "CAST(age AS INT) / 10"}, {"name": "decade", "sql": "FLOOR(tens)"}],
        "histories": [{**LOG, "prior": {"path": "before.csv", "lists": {"item": "items"}}, "separator": "|"}],
    },
    "events": {"histories": [{"behaviour": "viewed", "source": "events", "path": "views.csv", "sequences": SEQUENCE}]},
    "group split": {"split": {"by": "group", "valid": 1, "test": 2}},
    "random split": {"split": {"by": "random", "valid": 0.2, "test": 0.3}, "label": {"column": "click"}},
}


def made(tmp_path: Path, **changes: Any) -> PreparedDataset:
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    write_lines(raw / "items.csv", [[f"i{i}", f"g{i % 3}"] for i in range(8)], ["item", "genre"])
    write_lines(raw / "before.csv", [["u1", "i1|i2|i9"], ["u2", ""]], ["user", "items"])
    write_lines(
        raw / "views.csv", [[f"u{i % 5}", f"i{i % 9}", str(95 + i)] for i in range(30)], ["user", "item", "time"]
    )
    return prepared(tmp_path, **changes)


def assert_same(read: Split, stored: Split, labels: bool = True) -> None:
    rows = slice(0, len(stored))
    ours, theirs = read.batch(rows), stored.batch(rows)
    assert len(read) == len(stored)
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.dense, theirs.dense)
    if labels:
        np.testing.assert_array_equal(read.labels, stored.labels)
        assert (read.groups is None) == (stored.groups is None)
    assert ours.histories.keys() == theirs.histories.keys()
    for name, history in theirs.histories.items():
        np.testing.assert_array_equal(ours.histories[name].values, history.values)
        np.testing.assert_array_equal(ours.histories[name].offsets, history.offsets)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_rows_of_a_split_are_those_of_the_data_set(tmp_path: Path, name: str, split: Any) -> None:
    dataset = made(tmp_path, **RECIPES[name])
    inputs = inputs_of(dataset, dataset.schema).raw
    stored = getattr(dataset, split)
    assert_same(inputs.read(AskedRows(tmp_path / "raw", split=split, labels=True)).split, stored)
    assert_same(inputs.read(AskedRows(split=split, labels=True)).split, stored)  # from where it was prepared
    if stored.groups is not None:
        groups = inputs.read(AskedRows(split=split, labels=True)).split.groups
        np.testing.assert_array_equal(groups, stored.groups)


@pytest.mark.parametrize("name", ["features", "hashed", "log", "joined", "events"])
def test_rows_alone_read_their_events_from_the_log(tmp_path: Path, name: str) -> None:
    dataset = made(tmp_path, **RECIPES[name])
    inputs = inputs_of(dataset, dataset.schema).raw
    header = [column for column in HEADER if column != "click"]  # nor does the file say what became of the rows
    chosen = [[cell for key, cell in zip(HEADER, row, strict=True) if key != "click"] for row in raw_lines()[-8:]]
    alone = write_lines(tmp_path / "new.csv", chosen, header)
    frame = pl.DataFrame(chosen, schema=header, orient="row")
    for rows in (alone, frame):
        for raw in (None, tmp_path / "raw"):
            read = inputs.read(AskedRows(raw, rows))
            assert_same(read.split, dataset.test, labels=False)
            assert np.isnan(read.split.labels).all()
            assert read.places["row"].to_list() == list(range(2, 10) if rows is alone else range(1, 9))
    typed = frame.with_columns(pl.col("time", "age").cast(pl.Int32), pl.col("price").replace("", None).cast(float))
    assert_same(inputs.read(AskedRows(rows=typed)).split, dataset.test, labels=False)


@pytest.mark.parametrize("name", ["log", "events"])
def test_events_of_their_own(tmp_path: Path, name: str) -> None:
    dataset = made(tmp_path, **RECIPES[name])
    inputs = inputs_of(dataset, dataset.schema).raw
    rows = pl.DataFrame({"user": ["u1", "nobody"], "item": ["i1", "i1"], "time": [200, 200], "age": 20, "price": 1.0})
    events = {"user": ["u1", "u1", "u1", "u2"], "item": ["i3", "i4", "new", "i5"], "time": [199, 198, 200, 1]}
    if name == "log":
        events["click"] = ["1", "1", "1", "1"]
    read = inputs.read(AskedRows(rows=rows, events=pl.DataFrame(events))).split
    history = read.batch(np.arange(2)).histories["seen"]
    expected = inputs.fitted.ids.vocabularies["item"].ids_of(pl.Series(["i4", "i3"]))
    assert history.offsets.tolist() == [0, 2, 2], "an event at the row's own time is not seen"
    assert history.values.tolist() == expected.tolist()


def test_what_training_never_saw_reads_id_0(tmp_path: Path) -> None:
    dataset = made(tmp_path, features=FEATURES)
    rows = pl.DataFrame({"user": ["u1", "stranger", "u1 "], "item": ["?", None, "i1"], "age": [20, 99, None], "x": 1})
    read = inputs_of(dataset, dataset.schema).raw.read(AskedRows(rows=rows.with_columns(price=pl.lit(None))))
    ids = read.split.batch(slice(0, 3)).ids
    assert ids[0, 0] == ids[2, 0] > 0
    assert ids[1, 0] == 0
    assert ids[:2, 1].tolist() == [0, 0], "no training row has an empty item"
    assert read.split.batch(slice(0, 3)).dense.tolist() == [[0.0]] * 3


def test_features_left_out_are_not_asked_for(tmp_path: Path) -> None:
    dataset = without_features(made(tmp_path, **RECIPES["joined"]), ["genre", "decade", "clicked", "price"])
    inputs = inputs_of(dataset, dataset.schema).raw
    for file in (tmp_path / "raw").iterdir():
        file.unlink()
    rows = pl.DataFrame({"user": ["u1"], "item": ["i1"], "age": ["20"]})
    read = inputs.read(AskedRows(rows=rows)).split.batch(slice(0, 1))
    assert (read.ids[0, 0] > 0, read.ids.shape, read.dense.shape) == (True, (1, 3), (1, 0))
    assert read.histories == {}


def spoilt(column: str, text: str | None) -> list[list[str]]:
    rows = raw_lines()
    for row in rows[5:7]:
        row[HEADER.index(column)] = text or ""
    return rows


@pytest.mark.parametrize(
    ("column", "text"), [("price", "cheap"), ("user", ""), ("time", "noon"), ("click", "2"), ("price", "1e300")]
)
def test_bad_cells_are_refused_in_the_words_of_prepare(tmp_path: Path, column: str, text: str) -> None:
    dataset = made(tmp_path, **RECIPES["log"])
    write_lines(tmp_path / "raw" / "rows.csv", spoilt(column, text))
    with pytest.raises(DataError) as of_prepare:
        prepare(recipe(**RECIPES["log"]), tmp_path / "raw", tmp_path / "again")
    inputs = inputs_of(dataset, dataset.schema).raw
    for split in ("test", None):
        with pytest.raises(DataError) as found:
            inputs.read(AskedRows(tmp_path / "raw", split=split, labels=True))  # type: ignore[arg-type]
        assert str(found.value) == str(of_prepare.value)
    skipped = inputs.read(AskedRows(tmp_path / "raw", labels=True, skip_bad=True))
    assert (len(skipped.split), skipped.dropped) == (38, 2)
    frame = pl.DataFrame(spoilt(column, text), schema=HEADER, orient="row")
    if column != "click":
        with pytest.raises(DataError, match=f"^frame, row 6, column '{column}': "):
            inputs.read(AskedRows(rows=frame))


@pytest.mark.parametrize("column", ["item", "price", "user", "time", "click"])
def test_missing_columns_are_refused_in_the_words_of_prepare(tmp_path: Path, column: str) -> None:
    dataset = made(tmp_path, **RECIPES["log"])
    kept = [name for name in HEADER if name != column]
    rows = [[row[HEADER.index(name)] for name in kept] for row in raw_lines()]
    write_lines(tmp_path / "raw" / "rows.csv", rows, kept)
    with pytest.raises(DataError) as of_prepare:
        prepare(recipe(**RECIPES["log"]), tmp_path / "raw", tmp_path / "again")
    inputs = inputs_of(dataset, dataset.schema).raw
    with pytest.raises(DataError) as found:
        inputs.read(AskedRows(tmp_path / "raw", labels=True))
    assert str(found.value) == str(of_prepare.value)
    assert f"no column '{column}'" in str(found.value)


def test_side_tables_and_the_log_must_be_as_they_were_unless_a_folder_is_given(tmp_path: Path) -> None:
    dataset = made(tmp_path, **RECIPES["joined"])
    inputs = inputs_of(dataset, dataset.schema).raw
    rows = pl.DataFrame(raw_lines()[-2:], schema=HEADER, orient="row")
    write_lines(tmp_path / "raw" / "items.csv", [["i1", "g1"]], ["item", "genre"])
    with pytest.raises(DataError, match=r"items\.csv: is not the file that the data set was prepared from.*--raw DIR"):
        inputs.read(AskedRows(rows=rows))
    assert len(inputs.read(AskedRows(tmp_path / "raw", rows)).split) == 2
    (tmp_path / "raw").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"raw: no such folder of raw files, and items\.csv.*--raw DIR"):
        inputs.read(AskedRows(rows=rows))
    assert len(inputs.read(AskedRows(tmp_path / "elsewhere", rows)).split) == 2


def test_one_file_stands_for_a_folder_where_nothing_else_is_read(tmp_path: Path) -> None:
    dataset = made(tmp_path, **RECIPES["log"])
    inputs = inputs_of(dataset, dataset.schema).raw
    (tmp_path / "raw" / "rows.csv").rename(tmp_path / "renamed.csv")
    read = inputs.read(AskedRows(tmp_path / "renamed.csv", split="test", labels=True))
    assert_same(read.split, dataset.test)
    assert len(inputs.read(AskedRows(tmp_path / "renamed.csv")).split) == 40


def test_one_file_is_refused_where_others_are_read(tmp_path: Path) -> None:
    dataset = made(tmp_path, **RECIPES["joined"])
    inputs = inputs_of(dataset, dataset.schema).raw
    with pytest.raises(
        DataError, match=r"rows\.csv: one file, but recipe 'small' reads items\.csv, before\.csv besides"
    ):
        inputs.read(AskedRows(tmp_path / "raw" / "rows.csv"))


@pytest.mark.parametrize(
    ("recipe_name", "asked", "message"),
    [
        ("log", AskedRows(), "say which rows"),
        ("log", AskedRows(rows=Path("x.csv"), split="test"), "not both"),
        ("log", AskedRows(raw=Path("nowhere")), "nowhere: no such folder of raw files"),
        ("log", AskedRows(rows=Path("nowhere.csv")), r"nowhere\.csv: no such file"),
        ("negatives", AskedRows(rows=Path("x.csv"), labels=True), "draws negatives.*--split test"),
        ("features", AskedRows(rows=Path("x.csv"), events=Path("y.csv")), "reads no histories of events"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, recipe_name: str, asked: AskedRows, message: str) -> None:
    dataset = made(tmp_path, **RECIPES[recipe_name])
    with pytest.raises(DataError, match=message):
        inputs_of(dataset, dataset.schema).raw.read(asked)


def test_generated_rows_are_generated_again(tmp_path: Path) -> None:
    options = {"rows": 300, "users": 20, "items": 30, "fields": {"page": 9}, "categories": 3}
    dataset = prepare(recipe(synthetic=options), None, tmp_path / "made")
    inputs = inputs_of(dataset, dataset.schema).raw
    assert_same(inputs.read(AskedRows(split="test", labels=True)).split, dataset.test)

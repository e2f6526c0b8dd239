"""A cell means the same in every file: what is missing, which id it is, which number it is."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_helpers import recipe, values_of

from rectab.data import DataError, PreparedDataset, RecipeError, prepare
from rectab.data.ids import canonical_ids

ROWS = 24
LAST = {"by": "row_order", "valid": 4, "test": 4}
FILES = {"by": "files"}
TRAIN_AND_REST = [{"path": "a.parquet", "split": "train"}] + [
    {"path": "b.parquet", "split": split} for split in ("valid", "test")
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def frame(**columns: Any) -> pl.DataFrame:
    base = {"click": [i % 2 for i in range(ROWS)], "user": [i % 4 for i in range(ROWS)], "time": range(ROWS)}
    return pl.DataFrame({**base, "item": [(i * 5) % 12 for i in range(ROWS)], **columns})


def made(raw: Path, name: str = "out", **changes: Any) -> PreparedDataset:
    base = {"files": [{"path": "a.parquet"}], "features": [{"name": "user"}, {"name": "item"}], "split": LAST}
    return prepare(recipe(**{**base, **changes}), raw, raw.parent / name)


def fails(raw: Path, *expected: str, **changes: Any) -> None:
    with pytest.raises(DataError) as error:
        made(raw, **changes)
    for text in expected:
        assert text in str(error.value), f"{text!r} is not in: {error.value}"


def ids(dataset: PreparedDataset, feature: str = "item") -> list[int]:
    return [int(i) for split in (dataset.train, dataset.valid, dataset.test) for i in split.column(feature)]


# ids

AS = {
    "int16": pl.Int16,
    "uint64": pl.UInt64,
    "int128": pl.Int128,
    "float64": pl.Float64,
    "float32": pl.Float32,
    "decimal": pl.Decimal(20, 2),
    "text": pl.String,
    "dictionary": pl.Categorical,
}


def held_as(kind: str, column: pl.Expr) -> pl.Expr:
    if kind == "dictionary":
        return column.cast(pl.String).cast(pl.Categorical)
    if kind == "float text":
        return column.cast(pl.Float64).cast(pl.String)
    if kind == "padded text":
        return pl.concat_str(pl.lit(" "), column.cast(pl.String), pl.lit("  "))
    if kind == "binary":
        return column.cast(pl.String).cast(pl.Binary)
    return column.cast(AS[kind])


KINDS = [*AS, "float text", "padded text", "binary"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_the_same_between_files(raw: Path, kind: str) -> None:
    frame().write_parquet(raw / "a.parquet")
    frame().with_columns(held_as(kind, pl.col("user", "item"))).write_parquet(raw / "b.parquet")
    dataset = made(raw, files=TRAIN_AND_REST, split=FILES)
    assert dataset.train.column("item").tolist() == dataset.test.column("item").tolist()
    assert dataset.train.column("user").min() > 0
    assert set(values_of(dataset, "item").values()) == {str(i) for i in range(12)}


@pytest.mark.parametrize("kind", ["uint64", "float64", "float32", "decimal", "int128"])
def test_numbers_of_any_type_are_numbered_like_integers(raw: Path, kind: str) -> None:
    """Also those with equal counts, whose order is that of the values: 10 stands behind 9."""
    frame().write_parquet(raw / "a.parquet")
    expected = ids(made(raw))
    frame().with_columns(held_as(kind, pl.col("user", "item"))).write_parquet(raw / "a.parquet")
    assert ids(made(raw, "again")) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_events_meet(raw: Path, kind: str) -> None:
    frame().write_parquet(raw / "a.parquet")
    frame().with_columns(held_as(kind, pl.col("user", "item"))).write_parquet(raw / "e.parquet")
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    history = {"behaviour": "seen", "source": "events", "path": "e.parquet", "sequences": sequences}
    batch = made(raw, histories=[history]).test.batch(slice(None)).histories["h"]
    own = {"behaviour": "seen", "sequences": sequences}
    expected = made(raw, "log", histories=[own]).test.batch(slice(None)).histories["h"]
    assert batch.values.tolist() == expected.values.tolist()
    assert len(batch.values) > 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dictionary"])
def test_target_and_list_meet(raw: Path, kind: str) -> None:
    frame().with_columns(h=pl.concat_list(held_as(kind, pl.col("item")))).write_parquet(raw / "a.parquet")
    sequences = [{"name": "h", "column": "h", "target": "item"}]
    batch = made(raw, histories=[{"behaviour": "v", "source": "list", "sequences": sequences}]).train.batch(slice(None))
    assert batch.histories["h"].values.tolist() == batch.ids[:, 1].tolist()


@pytest.mark.parametrize("kind", ["float64", "float text", "decimal", "uint64"])
def test_prior_events_meet_the_rows(raw: Path, kind: str) -> None:
    frame().write_parquet(raw / "a.parquet")
    prior = pl.DataFrame({"user": [0, 1], "items": [5, 10]}).with_columns(held_as(kind, pl.all()))
    prior.with_columns(pl.concat_list("items")).write_parquet(raw / "p.parquet")
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    history = {"behaviour": "v", "prior": {"path": "p.parquet", "lists": {"item": "items"}}, "sequences": sequences}
    dataset = made(raw, histories=[history])
    names = values_of(dataset, "item")
    assert [names[i] for i in dataset.train.batch(slice(0, 3)).histories["h"].values.tolist()] == ["5", "10"]
    prior.with_columns(pl.concat_list("items"), user=pl.lit(None)).write_parquet(raw / "p.parquet")
    fails(raw, "p.parquet, row 1, column 'user'", "an empty cell", name="again", histories=[history])


@pytest.mark.parametrize(("one", "other"), [(pl.Int64, pl.Float64), (pl.UInt64, pl.String), (pl.Float64, pl.Int32)])
def test_lists_of_two_files_meet(raw: Path, one: Any, other: Any) -> None:
    for file, dtype in (("a.parquet", one), ("b.parquet", other)):
        frame().with_columns(h=pl.concat_list(pl.col("item").cast(dtype))).write_parquet(raw / file)
    history = {"behaviour": "v", "source": "list", "sequences": [{"name": "h", "column": "h", "target": "item"}]}
    dataset = made(raw, files=TRAIN_AND_REST, split=FILES, histories=[history])
    for split in (dataset.train, dataset.test):
        batch = split.batch(slice(None))
        assert batch.histories["h"].values.tolist() == batch.ids[:, 1].tolist()


@pytest.mark.parametrize("held", [pl.Datetime("ms"), pl.Datetime("ns"), pl.String])
def test_dates_are_the_same_ids(raw: Path, held: Any) -> None:
    days = pl.Series([dt.date(1969, 12, 30) + dt.timedelta(i % 4) for i in range(ROWS)])
    frame(item=days).write_parquet(raw / "a.parquet")
    frame(item=days.cast(held)).write_parquet(raw / "b.parquet")
    dataset = made(raw, files=TRAIN_AND_REST, split=FILES)
    assert dataset.train.column("item").tolist() == dataset.test.column("item").tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_side_tables_join_and_never_multiply(raw: Path, kind: str) -> None:
    frame().write_parquet(raw / "a.parquet")
    side = pl.DataFrame({"item": range(12), "brand": [f"b{i}" for i in range(12)]})
    side.with_columns(held_as(kind, pl.col("item"))).write_parquet(raw / "side.parquet")
    tables = [{"path": "side.parquet", "on": "item", "columns": ["brand"]}]
    dataset = made(raw, tables=tables, features=[{"name": "item"}, {"name": "brand"}])
    names, brands = values_of(dataset, "item"), values_of(dataset, "brand")
    for item, brand in zip(dataset.train.column("item"), dataset.train.column("brand"), strict=True):
        assert brands[int(brand)] == f"b{names[int(item)]}"


@pytest.mark.parametrize(
    "keys", [["1", "1.0"], [" 1", "1"], ["true", "1"], [b"1", b"1.00"], ["-0.0", "0"]], ids=lambda keys: str(keys[0])
)
def test_side_table_whose_keys_are_one_id(raw: Path, keys: list[Any]) -> None:
    frame().write_parquet(raw / "a.parquet")
    pl.DataFrame({"item": keys, "brand": ["a", "b"]}).write_parquet(raw / "side.parquet")
    fails(
        raw,
        "side.parquet, row 1, column 'item'",
        "more than once",
        tables=[{"path": "side.parquet", "on": "item", "columns": ["brand"]}],
    )


@pytest.mark.parametrize(
    "keys", [["7", "07"], ["7", "+7"], ["007", "7.0"], ["-0", "00"]], ids=lambda keys: str(keys[1])
)
@pytest.mark.parametrize("rows", ["int16", "float64"])
def test_side_table_whose_keys_are_one_number(raw: Path, keys: list[str], rows: str) -> None:
    frame().with_columns(held_as(rows, pl.col("item"))).write_parquet(raw / "a.parquet")
    pl.DataFrame({"item": keys, "brand": ["a", "b"]}).write_csv(raw / "side.csv")
    tables = [{"path": "side.csv", "on": "item", "columns": ["brand"]}]
    fails(raw, "side.csv, line 2, column 'item'", "more than once", tables=tables)


@pytest.mark.parametrize("rows", ["int16", "float64", "text"])
def test_texts_join_numbers_as_numbers(raw: Path, rows: str) -> None:
    """Zeros in front do not count where one of the two keys holds numbers."""
    frame().with_columns(held_as(rows, pl.col("item"))).write_parquet(raw / "a.parquet")
    keys = pl.Series(range(12)) if rows == "text" else pl.Series([f"{i:03d}" for i in range(12)])
    pl.DataFrame({"item": keys, "brand": [f"b{i}" for i in range(12)]}).write_parquet(raw / "side.parquet")
    if rows == "text":
        frame(item=[f"{i % 12:03d}" for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    tables = [{"path": "side.parquet", "on": "item", "columns": ["brand"]}]
    dataset = made(raw, tables=tables, features=[{"name": "item"}, {"name": "brand"}])
    names, brands = values_of(dataset, "item"), values_of(dataset, "brand")
    for item, brand in dataset.train.batch(slice(None)).ids.tolist():
        assert brands[brand] == f"b{int(str(names[item]))}"


def test_missing_keys_join_nothing(raw: Path) -> None:
    items = [None if i % 3 == 0 else float(i % 5) for i in range(ROWS)]
    frame(item=items).write_parquet(raw / "a.parquet")
    side = pl.DataFrame({"item": [0, 1, 2, 3, 4, None, None], "brand": list("abcdefg")})
    side.write_parquet(raw / "side.parquet")
    tables = [{"path": "side.parquet", "on": "item", "columns": ["brand"]}]
    dataset = made(raw, tables=tables, features=[{"name": "brand"}])
    names = values_of(dataset, "brand")
    decoded = [names.get(int(i)) for i in dataset.train.column("brand")]
    assert decoded == [None if item is None else "abcde"[int(item)] for item in items[:16]]


def test_one_table_joined_by_two_keys(raw: Path) -> None:
    frame(friend=[(i + 1) % 4 for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    pl.DataFrame({"id": range(4), "age": [20, 30, 40, 50], "city": list("abcd")}).write_parquet(raw / "u.parquet")
    tables = [{"path": "u.parquet", "on": "user", "key": "id", "columns": ["age"]}]
    tables.append({"path": "u.parquet", "on": "friend", "key": "id", "columns": ["city"]})
    dataset = made(raw, tables=tables, features=[{"name": "age"}, {"name": "city"}, {"name": "friend"}])
    ages, cities = values_of(dataset, "age"), values_of(dataset, "city")
    decoded = [(ages[int(a)], cities[int(c)]) for a, c, _ in dataset.train.batch(slice(0, 4)).ids.tolist()]
    assert decoded == [("20", "b"), ("30", "c"), ("40", "d"), ("50", "a")]


@pytest.mark.parametrize("text", ["007", "+7", "7.5"])
def test_a_text_that_only_looks_like_a_number_is_an_id_of_its_own(raw: Path, text: str) -> None:
    """Whether it stands in the same column as integers, or in another of the same vocabulary."""
    frame(item=[7, 8] * 12, other=[text, "8"] * 12).write_parquet(raw / "a.parquet")
    frame(item=[text, "7"] * 12, other=[text, "8"] * 12).write_parquet(raw / "b.parquet")
    features = [{"name": "item"}, {"name": "other", "vocabulary": "item"}]
    dataset = made(raw, files=TRAIN_AND_REST, split=FILES, features=features)
    names = values_of(dataset, "item")
    assert [names[int(i)] for i in dataset.test.batch(slice(0, 2)).ids.flatten()] == [text, text, "7", "8"]


def test_large_ids_are_exact(raw: Path) -> None:
    """Neighbours beyond 2^53 and 2^63 stay apart, in rows, lists and side tables."""
    large = [2**53, 2**53 + 1, 2**63 - 1, -(2**63) + 1]
    frame(item=[large[i % 4] for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    assert set(values_of(made(raw), "item").values()) == {str(i) for i in large}
    unsigned = pl.Series([[2**64 - 1, 2**64 - 2, 5][i % 3] for i in range(ROWS)], dtype=pl.UInt64)
    frame(item=unsigned).with_columns(h=pl.concat_list("item")).write_parquet(raw / "b.parquet")
    history = {"behaviour": "v", "source": "list", "sequences": [{"name": "h", "column": "h", "target": "item"}]}
    dataset = made(raw, "unsigned", files=[{"path": "b.parquet"}], histories=[history])
    assert set(values_of(dataset, "item").values()) == {str(2**64 - 1), str(2**64 - 2), "5"}
    batch = dataset.train.batch(slice(None))
    assert batch.histories["h"].values.tolist() == batch.ids[:, 1].tolist()


@pytest.mark.parametrize(("dtype", "limit"), [(pl.Float64, 2**53), (pl.Float32, 2**24)])
@pytest.mark.parametrize("value", ["limit", "minus limit", "1e20", "inf"])
def test_floats_that_may_stand_for_several_ids_are_refused(raw: Path, dtype: Any, limit: int, value: str) -> None:
    number = {"limit": limit, "minus limit": -limit}.get(value) or float(value)
    items = pl.Series([float(i) for i in range(ROWS - 1)] + [float(number)], dtype=dtype)
    frame(item=items).write_parquet(raw / "a.parquet")
    fails(raw, "a.parquet, row 24, column 'item'", "several ids")
    frame().with_columns(h=pl.concat_list(pl.Series(items))).write_parquet(raw / "a.parquet")
    history = {"behaviour": "v", "source": "list", "sequences": [{"name": "h", "column": "h", "target": "item"}]}
    fails(raw, "a.parquet, row 24, column 'h'", "several ids", histories=[history])


@pytest.mark.parametrize(
    ("cells", "dtype", "expected"),
    [
        ([7.0, -0.0, -3.0, 1.5, float("nan"), None, 1e-7], pl.Float64, ["7", "0", "-3", "1.5", None, None, "1e-07"]),
        ([0.1], pl.Float32, ["0.1"]),
        ([Decimal("7.00"), Decimal("1.50"), Decimal("-0.00")], pl.Decimal(9, 2), ["7", "1.5", "0"]),
        ([True, False, None], pl.Boolean, ["1", "0", None]),
        (["true", "True", "FALSE", "Truest"], pl.String, ["1", "1", "0", "Truest"]),
        ([" a ", "\tb", "  ", "", "nan", "NaN", "Nan"], pl.String, ["a", "b", None, None, None, None, "Nan"]),
        (["7.0", "7.00", "-5.0", "-0.0"], pl.String, ["7", "7", "-5", "0"]),
        (["007", "1.50", "07.0", "1.0.0", "v1.0", "1e20"], pl.String, ["007", "1.50", "07.0", "1.0.0", "v1.0", "1e20"]),
        ([dt.date(1960, 1, 2)], pl.Date, ["1960-01-02"]),
        (
            [dt.datetime(2024, 1, 5), dt.datetime(2024, 1, 5, 6)],
            pl.Datetime("ms"),
            ["2024-01-05", "2024-01-05 06:00:00"],
        ),
        ([dt.datetime(2024, 1, 5, 6, 0, 0, 500000)], pl.Datetime("ns"), ["2024-01-05 06:00:00.500"]),
        ([dt.time(6, 0, 0, 5000)], pl.Time, ["06:00:00.005"]),
    ],
)
def test_canonical_ids(cells: list[Any], dtype: Any, expected: list[str | None]) -> None:
    found = canonical_ids(pl.Series(cells, dtype=dtype, strict=False)).to_list()
    assert [None if f is None else f.replace("1e-7", "1e-07") for f in found] == expected


def test_hashed_ids_do_not_depend_on_the_type(raw: Path) -> None:
    features = [{"name": "item", "hashed": True}]
    found = []
    for kind in ("int16", "float64", "padded text"):
        frame().with_columns(held_as(kind, pl.col("item"))).write_parquet(raw / "a.parquet")
        found.append(ids(made(raw, kind.replace(" ", ""), features=features)))
    assert found[0] == found[1] == found[2]


def test_truth_values_are_one_and_zero(raw: Path) -> None:
    frame(flag=[i % 2 for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    expected = ids(made(raw, features=[{"name": "flag"}]), "flag")
    frame(flag=[i % 2 == 1 for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    assert ids(made(raw, "bool", features=[{"name": "flag"}]), "flag") == expected
    for true, false in (("true", "false"), ("True", "False")):
        frame(flag=[true if i % 2 else false for i in range(ROWS)]).write_csv(raw / "a.csv")
        dataset = made(raw, true, files=[{"path": "a.csv"}], features=[{"name": "flag"}])
        assert ids(dataset, "flag") == expected


def test_json_numbers_are_the_same_ids(raw: Path) -> None:
    frame().write_parquet(raw / "a.parquet")
    columns = ("click", "user", "time", "item")
    lines = [{**dict(zip(columns, row, strict=True)), "item": float(row[3])} for row in frame().select(columns).rows()]
    (raw / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    form = {"kind": "jsonl", "fields": dict(zip(columns, columns, strict=True))}
    dataset = made(raw, files=[{"path": "a.jsonl", "format": form}])
    assert set(values_of(dataset, "item").values()) == {str(i) for i in range(12)}


@pytest.mark.parametrize(
    ("column", "what"),
    [(pl.lit(dt.timedelta(1)), "durations"), (pl.concat_list("item"), "lists"), (pl.struct("item"), "lists")],
)
def test_what_is_no_id_is_refused_by_name(raw: Path, column: pl.Expr, what: str) -> None:
    frame().with_columns(item=column).write_parquet(raw / "a.parquet")
    with pytest.raises(RecipeError, match=f"a.parquet: column 'item' holds {what}"):
        made(raw)


def test_bytes_that_are_no_text_are_ids_in_hexadecimal(raw: Path) -> None:
    frame(item=[bytes([255, i % 3]) for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    assert set(values_of(made(raw), "item").values()) == {"0xff00", "0xff01", "0xff02"}


# missing cells

CELLS = ["a", "", "b", None] * (ROWS // 4)


@pytest.mark.parametrize(
    ("column", "form"),
    [
        (pl.Series(CELLS), {}),
        (pl.Series(CELLS).cast(pl.Categorical), {}),
        (pl.Series(CELLS).cast(pl.Enum(["a", "", "b"])), {}),
        (pl.Series([None if cell is None else cell.encode() for cell in CELLS]), {}),
        (pl.Series([cell and f" {cell} " for cell in CELLS]), {}),
        (pl.Series([cell or "  " for cell in CELLS]), {}),
        (pl.Series([cell or "NULL" for cell in CELLS]), {"null_values": ["NULL"]}),
        (pl.Series([cell or " NULL " for cell in CELLS]), {"null_values": ["NULL"]}),
        (pl.Series([cell or "nan" for cell in CELLS]), {}),
    ],
    ids=["text", "dictionary", "enum", "binary", "padded", "blank", "null_values", "padded null", "nan"],
)
def test_missing_is_one_value_in_every_type(raw: Path, column: pl.Series, form: dict[str, Any]) -> None:
    frame(item=column).write_parquet(raw / "a.parquet")
    assert values_of(made(raw, format=form), "item") == {1: None, 2: "a", 3: "b"}


@pytest.mark.parametrize("column", [[1, -1, 2, None], [1.0, -1.0, 2.0, float("nan")], [b"1", b"-1", b"2", None]])
def test_null_values_hold_for_numbers_too(raw: Path, column: list[Any]) -> None:
    frame(item=column * (ROWS // 4)).write_parquet(raw / "a.parquet")
    assert values_of(made(raw, format={"null_values": ["-1", "NULL"]}), "item") == {1: None, 2: "1", 3: "2"}


@pytest.mark.parametrize("inner", [pl.Float64, pl.String])
def test_missing_elements_of_lists(raw: Path, inner: Any) -> None:
    missing = float("nan") if inner == pl.Float64 else ""
    lists = pl.Series([[missing, 1 if inner == pl.Float64 else "1", None]] * ROWS, dtype=pl.List(inner))
    frame(h=lists).write_parquet(raw / "a.parquet")
    history = {"behaviour": "v", "source": "list", "sequences": [{"name": "h", "column": "h", "target": "item"}]}
    dataset = made(raw, histories=[history])
    names = values_of(dataset, "item")
    found = [names[i] for i in dataset.train.batch(slice(0, 1)).histories["h"].values.tolist()]
    assert found == [None, "1", None]


@pytest.mark.parametrize("file", ["a.parquet", "a.csv"])
@pytest.mark.parametrize("label", [{"at_least": 4}, {"rating": True}, {}])
def test_a_label_that_is_nan_is_refused(raw: Path, file: str, label: dict[str, Any]) -> None:
    stars = [float("nan") if i == 3 else float(i % 2) for i in range(ROWS)]
    frame(stars=stars).write_parquet(raw / "a.parquet")
    frame(stars=stars).write_csv(raw / "a.csv")
    place = "a.parquet, row 4" if file == "a.parquet" else "a.csv, line 5"
    fails(raw, place, "column 'stars'", "NaN", files=[{"path": file}], label={"column": "stars", **label})


@pytest.mark.parametrize("file", ["a.parquet", "a.csv"])
def test_nan_meets_no_condition(raw: Path, file: str) -> None:
    opinion = [float("nan") if i % 2 else 5.0 for i in range(ROWS)]
    frame(opinion=opinion, user=[1] * ROWS).write_parquet(raw / "a.parquet")
    frame(opinion=opinion, user=[1] * ROWS).write_csv(raw / "a.csv")
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    where = "CAST(opinion AS DOUBLE) >= 4"
    own = made(raw, files=[{"path": file}], histories=[{"behaviour": "v", "where": where, "sequences": sequences}])
    events = {"behaviour": "v", "where": where, "source": "events", "path": file, "sequences": sequences}
    other = made(raw, "events", histories=[events])
    for dataset in (own, other):
        assert dataset.train.history_lengths("v").tolist() == [(i + 1) // 2 for i in range(16)]


@pytest.mark.parametrize("source", ["log", "events"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("opinion >= 4", "n n y y"),
        ("opinion = '5'", "n n y y"),
        ("NOT opinion < 4", "n n y y"),
        ("likes / views >= 2", "n n y n"),
        ("NOT likes / views < 2", "n n y n"),
        ("likes / views BETWEEN 2 AND 9", "n n y n"),
        ("likes / views >= 2 OR opinion = 1", "n y y n"),
        ("CASE WHEN likes / views >= 2 THEN opinion ELSE 0 END > 0", "n n y n"),
    ],
)
def test_a_condition_means_the_same_in_every_file(raw: Path, where: str, expected: str, source: str) -> None:
    """Text is compared as numbers with numbers; 0 / 0 meets no condition, nor does it fail one."""
    opinion, likes, views = ([None, 1, 5, 5] * 6, [0, 0, 4, 1] * 6, [0, 0, 2, 2] * 6)
    table = frame(opinion=opinion, likes=likes, views=views, user=[1] * ROWS)
    table.write_parquet(raw / "a.parquet")
    table.with_columns(pl.col("likes", "views").cast(pl.Float64)).write_csv(raw / "a.csv")
    history: dict[str, Any] = {"behaviour": "v", "where": where, "source": source}
    history["sequences"] = [{"name": "h", "column": "item", "target": "item"}]
    met = [letter == "y" for letter in expected.split()] * 6
    cast = where.replace("likes / views", "CAST(likes AS DOUBLE) / CAST(views AS DOUBLE)")
    for file, text in (("a.parquet", where), ("a.csv", cast)):
        changes = {"path": file} if source == "events" else {}
        dataset = made(raw, file, files=[{"path": file}], histories=[{**history, "where": text, **changes}])
        assert dataset.train.history_lengths("v").tolist() == [sum(met[:i]) for i in range(16)]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("item", "is no condition"),
        ("word > 3", "'x' is compared with a number, but is none"),
        ("word + 1 > 3", "cannot be worked out"),
    ],
)
def test_conditions_that_are_none(raw: Path, where: str, said: str) -> None:
    frame(word=["x"] * ROWS).write_parquet(raw / "a.parquet")
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    fails(raw, "a.parquet", said, histories=[{"behaviour": "v", "where": where, "sequences": sequences}])


def test_derived_columns_are_missing_where_they_are_nan_or_empty(raw: Path) -> None:
    frame(likes=[0, 1] * 12, views=[0, 1] * 12, word=["ab", "a"] * 12).write_parquet(raw / "a.parquet")
    derived = [{"name": "ratio", "sql": "likes / views"}, {"name": "rest", "sql": "SUBSTR(word, 2)"}]
    dataset = made(raw, derived=derived, features=[{"name": "ratio"}, {"name": "rest"}])
    assert set(values_of(dataset, "ratio").values()) == {None, "1"}
    assert set(values_of(dataset, "rest").values()) == {None, "b"}
    label = {"column": "ratio", "at_least": 0.5}
    fails(raw, "row 1", "column 'ratio'", name="label", derived=derived, label=label)


@pytest.mark.parametrize("role", ["group", "time", "negatives", "split"])
@pytest.mark.parametrize("kind", ["nan", "empty"])
def test_a_row_without_its_key_is_refused(raw: Path, role: str, kind: str) -> None:
    cells: list[Any] = [float(i) for i in range(ROWS)]
    cells[5] = float("nan")
    if kind == "empty":
        cells = [" " if i == 5 else str(i) for i in range(ROWS)]
    frame(key=cells).write_parquet(raw / "a.parquet")
    changes: dict[str, Any] = {
        "group": {"group": "key"},
        "time": {"time": "key"},
        "negatives": {"label": None, "negatives": {"item": "key"}},
        "split": {"split": {"by": "time", "column": "key", "valid_from": 10, "test_from": 20}},
    }[role]
    fails(raw, "a.parquet, row 6, column 'key'", **changes)


def test_a_text_that_is_missing_is_shown_as_it_stands(raw: Path) -> None:
    frame(click=["NULL" if i == 2 else str(i % 2) for i in range(ROWS)]).write_csv(raw / "a.csv")
    fails(raw, "line 4", "found 'NULL'", files=[{"path": "a.csv", "format": {"null_values": ["NULL"]}}])


# numbers

DENSE = [{"name": "item"}, {"name": "x", "type": "dense"}]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([" 1.5 ", "", "nan", "true"] * 6),
        pl.Series(["1.5", None, "NAN", "1"] * 6).cast(pl.Categorical),
        pl.Series([1.5, None, float("nan"), 1] * 6),
        pl.Series([Decimal("1.5"), None, None, Decimal(1)] * 6),
    ],
    ids=["text", "dictionary", "float", "decimal"],
)
def test_a_number_is_the_same_in_every_type(raw: Path, column: pl.Series) -> None:
    frame(x=column).write_parquet(raw / "a.parquet")
    dataset = made(raw, features=DENSE)
    assert dataset.train.batch(slice(0, 4)).dense[:, 0].tolist() == [1.5, 0, 0, 1]


@pytest.mark.parametrize("text", ["1e39", "-1e39", "1e400", "inf"])
@pytest.mark.parametrize("role", ["dense", "log", "rating", "bins"])
def test_numbers_beyond_float32_are_refused_by_row(raw: Path, text: str, role: str) -> None:
    numbers = ["1"] * (ROWS - 1) + [text]
    frame(x=numbers).write_csv(raw / "a.csv")
    changes: dict[str, Any] = {
        "dense": {"features": DENSE},
        "log": {"features": [{"name": "item"}, {"name": "x", "type": "dense", "transform": "log"}]},
        "rating": {"label": {"column": "x", "rating": True}},
        "bins": {"features": [{"name": "x", "bins": "log_squared"}]},
    }[role]
    fails(raw, "a.csv, line 25, column 'x'", repr(text), files=[{"path": "a.csv"}], **changes)
    frame(x=[float(number) for number in numbers]).write_parquet(raw / "a.parquet")
    fails(raw, "a.parquet, row 24, column 'x'", **changes)


def test_the_largest_float32_is_kept(raw: Path) -> None:
    largest = np.finfo(np.float32).max
    frame(x=[float(largest)] * ROWS).write_parquet(raw / "a.parquet")
    assert made(raw, features=DENSE).train.batch(slice(0, 1)).dense[0, 0] == largest


def test_a_transform_that_leaves_float32_is_refused(raw: Path) -> None:
    numbers = [1e-30 * (i % 2) for i in range(ROWS - 1)] + [1e20]
    frame(x=numbers).write_parquet(raw / "a.parquet")
    features = [{"name": "item"}, {"name": "x", "type": "dense", "transform": "standardize"}]
    fails(raw, "a.parquet, row 24, column 'x'", "standardize", "float32", features=features)


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Time, pl.Duration("us")])
def test_times_are_no_numbers(raw: Path, dtype: Any) -> None:
    frame(x=pl.Series(range(ROWS), dtype=pl.Int32).cast(dtype)).write_parquet(raw / "a.parquet")
    for changes in ({"features": DENSE}, {"label": {"column": "x", "rating": True}}):
        with pytest.raises(RecipeError, match=r"a.parquet: column 'x' holds times where a number is needed"):
            made(raw, **changes)

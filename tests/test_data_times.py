"""Times are compared as instants, in any unit, format and zone, to the nanosecond; what cannot be is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_helpers import recipe

from rectab.data import DataError, PreparedDataset, RecipeError, prepare
from rectab.data.times import Times, instant, parse_time

ROWS = 12
HOURS = pl.Series([dt.datetime(2024, 1, 1) + dt.timedelta(hours=5 * i) for i in range(ROWS)])
SHARES = {"by": "time", "valid": 2, "test": 2}
SEQUENCES = [{"name": "h", "column": "item", "target": "item"}]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def frame(times: Any, **columns: Any) -> pl.DataFrame:
    rows = {"click": [i % 2 for i in range(ROWS)], "user": [1] * ROWS, "item": range(ROWS), "time": times}
    return pl.DataFrame({**rows, **columns}, strict=False)


def made(raw: Path, name: str = "out", **changes: Any) -> PreparedDataset:
    base = {"files": [{"path": "a.parquet"}], "features": [{"name": "item", "hashed": True}], "split": SHARES}
    return prepare(recipe(**{**base, **changes}), raw, raw.parent / name)


def fails(raw: Path, *expected: str, **changes: Any) -> None:
    with pytest.raises(DataError) as error:
        made(raw, **changes)
    for text in expected:
        assert text in str(error.value), f"{text!r} is not in: {error.value}"


def lengths(raw: Path, name: str = "out", path: str = "e.parquet", **changes: Any) -> list[int]:
    """Events that each row sees, of the file ``path``."""
    history = {"behaviour": "v", "source": "events", "path": path, "sequences": SEQUENCES}
    dataset = made(raw, name, histories=[history], split={"by": "row_order", "valid": 2, "test": 2}, **changes)
    return [int(n) for split in (dataset.train, dataset.valid, dataset.test) for n in split.history_lengths("v")]


def text(layout: str) -> Callable[[pl.Series], pl.Series]:
    return lambda times: times.dt.to_string(layout)


MOMENTS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "ms": lambda times: times.cast(pl.Datetime("ms")),
    "us": lambda times: times.cast(pl.Datetime("us")),
    "ns": lambda times: times.cast(pl.Datetime("ns")),
    "text": text("%Y-%m-%d %H:%M:%S"),
    "ISO text": text("%Y-%m-%dT%H:%M"),
    "padded text": text("  %Y-%m-%d %H:%M:%S%.6f "),
}
ZONED: dict[str, Callable[[pl.Series], pl.Series]] = {
    "UTC": lambda times: times.dt.replace_time_zone("UTC"),
    "New York": lambda times: times.dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York"),
    "Z": text("%Y-%m-%dT%H:%M:%SZ"),
    "offset": lambda times: times.dt.offset_by("8h").dt.to_string("%Y-%m-%d %H:%M:%S+08:00"),
    "bigquery": text("%Y-%m-%d %H:%M:%S UTC"),
}


@pytest.mark.parametrize("events", MOMENTS)
@pytest.mark.parametrize("rows", ["ms", "us", "ns", "text"])
def test_rows_see_what_came_before_in_any_unit(raw: Path, rows: str, events: str) -> None:
    frame(MOMENTS[rows](HOURS)).write_parquet(raw / "a.parquet")
    frame(MOMENTS[events](HOURS)).write_parquet(raw / "e.parquet")
    assert lengths(raw) == list(range(ROWS))
    frame(MOMENTS[events](HOURS)).write_csv(raw / "e.csv")
    assert lengths(raw, "csv", "e.csv") == list(range(ROWS))


@pytest.mark.parametrize("events", ZONED)
@pytest.mark.parametrize("rows", ["UTC", "New York", "Z"])
def test_zones_are_taken_to_utc(raw: Path, rows: str, events: str) -> None:
    frame(ZONED[rows](HOURS)).write_parquet(raw / "a.parquet")
    frame(ZONED[events](HOURS)).write_parquet(raw / "e.parquet")
    assert lengths(raw) == list(range(ROWS))


@pytest.mark.parametrize("dates", [pl.Date, pl.String])
def test_a_date_has_passed_when_its_day_is_over(raw: Path, dates: Any) -> None:
    """It may have been at any hour, so no row of the same day sees it."""
    frame(HOURS).write_parquet(raw / "a.parquet")
    frame(HOURS.cast(pl.Date).cast(dates)).write_parquet(raw / "e.parquet")
    days = HOURS.dt.date().to_list()
    assert lengths(raw) == [sum(day < own for day in days) for own in days]
    assert lengths(raw, "dates", files=[{"path": "e.parquet"}]) == [sum(day < own for day in days) for own in days]
    frame(HOURS).write_parquet(raw / "e2.parquet")
    found = lengths(raw, "rows", "e2.parquet", files=[{"path": "e.parquet"}])
    assert found == [sum(day < own for day in days) for own in days]


NUMBERS: dict[str, list[Any]] = {
    "int": [1_700_000_000 + i for i in range(ROWS)],
    "float": [1_700_000_000.0 + i for i in range(ROWS)],
    "text": [f"{1_700_000_000 + i}" for i in range(ROWS)],
    "float text": [f" {1_700_000_000 + i}.0" for i in range(ROWS)],
    "decimal": [Decimal(1_700_000_000 + i) for i in range(ROWS)],
}


@pytest.mark.parametrize("events", NUMBERS)
@pytest.mark.parametrize("rows", ["int", "float", "text"])
def test_numbers_are_times_of_any_type(raw: Path, rows: str, events: str) -> None:
    frame(NUMBERS[rows]).write_parquet(raw / "a.parquet")
    frame(NUMBERS[events]).write_parquet(raw / "e.parquet")
    assert lengths(raw) == list(range(ROWS))


EXACT: dict[str, Any] = {
    "integers": [1_700_000_000_000_000_000 + i for i in range(ROWS)],
    "datetimes": pl.Series([1_700_000_000_000_000_000 + i for i in range(ROWS)]).cast(pl.Datetime("ns")),
    "text": [f"2024-01-01T00:00:00.{i:09d}" for i in range(ROWS)],
    "decimals": [Decimal(f"1700000000.{i:09d}") for i in range(ROWS)],
    "decimal text": [f"1700000000.{i:09d}" for i in range(ROWS)],
    "before 1970": [dt.datetime(1969, 12, 31, 23, 59, 59, 999_990 + i) if i < 10 else None for i in range(10)]
    + [dt.datetime(1970, 1, 1), dt.datetime(1970, 1, 1, 0, 0, 0, 1)],
    "negative": [-1.5 + i / 4 for i in range(ROWS)],
}


@pytest.mark.parametrize("kind", EXACT)
def test_nothing_is_rounded(raw: Path, kind: str) -> None:
    """Neighbours a nanosecond apart keep their order, in histories and in splits."""
    rows = frame(pl.Series(EXACT[kind])).with_columns(half=pl.int_range(pl.len()) % 2)
    rows.write_parquet(raw / "e.parquet")
    rows.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(raw / "a.parquet")
    features = [{"name": "item"}]
    split = {"by": "row_order", "valid": 2, "test": 2}
    history = {"behaviour": "v", "source": "events", "path": "e.parquet", "sequences": SEQUENCES}
    dataset = made(
        raw, histories=[history], features=[*features, {"name": "x", "column": "item", "type": "dense"}], split=split
    )
    for part in (dataset.train, dataset.valid, dataset.test):
        assert part.history_lengths("v").tolist() == part.batch(slice(None)).dense[:, 0].tolist()
    by_time = made(raw, "time", features=[*features, {"name": "x", "column": "item", "type": "dense"}])
    assert sorted(by_time.test.batch(slice(None)).dense[:, 0].tolist()) == [10, 11]


def test_files_of_two_units_are_split_as_one(raw: Path) -> None:
    late = frame(HOURS.cast(pl.Datetime("ms")))[6:]
    frame(HOURS)[:6].write_parquet(raw / "a.parquet")
    late.write_parquet(raw / "b.parquet")
    late.with_columns(pl.col("time").dt.to_string("iso")).write_csv(raw / "c.csv")
    features = [{"name": "x", "column": "item", "type": "dense"}, {"name": "user"}]
    for other in ("b.parquet", "c.csv"):
        files = [{"path": other}, {"path": "a.parquet"}]
        test = made(raw, other, files=files, features=features).test
        assert sorted(test.batch(slice(None)).dense[:, 0].tolist()) == [10, 11]


KINDS = {
    "a number": pl.Series(range(ROWS)),
    "a date or time without a zone": HOURS,
    "a time with a zone": HOURS.dt.replace_time_zone("UTC"),
}


@pytest.mark.parametrize("rows", KINDS)
@pytest.mark.parametrize("events", KINDS)
def test_kinds_of_times_are_never_mixed(raw: Path, rows: str, events: str) -> None:
    if rows == events:
        return
    frame(KINDS[rows]).write_parquet(raw / "a.parquet")
    frame(KINDS[events]).write_parquet(raw / "e.parquet")
    with pytest.raises(
        DataError, match=rf"a.parquet, column 'time' is {rows}, but .*e.parquet, column 'time' is {events}"
    ):
        lengths(raw)
    fails(
        raw,
        "column 'time' holds",
        rows,
        events,
        "a.parquet, row 1",
        files=[{"path": "a.parquet"}, {"path": "e.parquet"}],
    )


def test_a_text_column_of_two_kinds_names_a_row_of_each(raw: Path) -> None:
    times = [f"2024-01-0{1 + i % 9}T00:00:00" + ("Z" if i == 7 else "") for i in range(ROWS)]
    frame(times).write_csv(raw / "a.csv")
    fails(raw, "a.csv, line 2", "a.csv, line 9", "with a zone", files=[{"path": "a.csv"}])


@pytest.mark.parametrize("dtype", [pl.Duration("us"), pl.Time, pl.Boolean])
def test_what_is_no_time_is_refused_by_name(raw: Path, dtype: Any) -> None:
    frame(pl.Series([0, 1] * 6, dtype=pl.Int64).cast(dtype)).write_parquet(raw / "a.parquet")
    with pytest.raises(RecipeError, match=r"a.parquet: column 'time' holds (Duration|Time|Boolean)"):
        made(raw)


@pytest.mark.parametrize(
    "cell", ["2024-02-30", "05/01/2024", "yesterday", "inf", "9999-12-31", "2024-01-05T25:00", "1e30"]
)
def test_a_cell_that_is_no_time_is_refused_by_row(raw: Path, cell: str) -> None:
    times = ["2024-01-01"] * (ROWS - 1) + [cell]
    frame(times).write_csv(raw / "a.csv")
    fails(raw, "a.csv, line 13, column 'time'", "a time is needed", repr(cell), files=[{"path": "a.csv"}])


@pytest.mark.parametrize("moment", [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1)])
@pytest.mark.parametrize("dtype", [pl.Datetime("us"), pl.Datetime("ms"), pl.Date])
def test_moments_that_nanoseconds_do_not_reach_are_refused_by_row(raw: Path, moment: dt.datetime, dtype: Any) -> None:
    times = pl.Series([*HOURS[:-1].to_list(), moment], dtype=pl.Datetime("us")).cast(dtype)
    frame(times).write_parquet(raw / "a.parquet")
    fails(raw, "a.parquet, row 12, column 'time'", "1678 to 2261")


# borders of a split

BORDERS = ("2024-01-02 06:00:00", "2024-01-03T01:00:00")
SIZES = [6, 4, 2]


@pytest.mark.parametrize("kind", [*MOMENTS, *ZONED])
@pytest.mark.parametrize("column", [None, "time"])
def test_a_border_is_a_moment(raw: Path, kind: str, column: str | None) -> None:
    frame({**MOMENTS, **ZONED}[kind](HOURS)).write_parquet(raw / "a.parquet")
    split = {"by": "time", "column": column, "valid_from": BORDERS[0], "test_from": BORDERS[1]}
    dataset = made(raw, split=split)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == SIZES
    if kind in ZONED:
        split |= {"valid_from": "2024-01-02T14:00:00+08:00", "test_from": "2024-01-03T01:00:00Z"}
        zoned = made(raw, "zoned", split=split)
        assert [len(zoned.train), len(zoned.valid), len(zoned.test)] == SIZES


@pytest.mark.parametrize(
    "borders",
    [
        ("2024-01-02", "2024-01-03"),
        (dt.date(2024, 1, 2), dt.date(2024, 1, 3)),
        (dt.datetime(2024, 1, 2), dt.datetime(2024, 1, 3)),
    ],
)
@pytest.mark.parametrize("kind", ["ns", "text", "date"])
def test_a_border_may_be_a_date(raw: Path, borders: tuple[Any, Any], kind: str) -> None:
    times = HOURS.cast(pl.Date) if kind == "date" else MOMENTS[kind](HOURS)
    frame(times).write_parquet(raw / "a.parquet")
    dataset = made(raw, split={"by": "time", "column": "time", "valid_from": borders[0], "test_from": borders[1]})
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [5, 5, 2]


def test_a_border_in_a_recipe_file_may_be_a_toml_date(raw: Path) -> None:
    frame(HOURS).write_parquet(raw / "a.parquet")
    path = raw.parent / "recipe.toml"
    path.write_text(
        'name = "t"\ntime = "time"\nlabel = { column = "click" }\nfiles = [{ path = "a.parquet" }]\n'
        'features = [{ name = "item" }]\n[split]\nby = "time"\nvalid_from = 2024-01-02T06:00:00\n'
        "test_from = 2024-01-03\n"
    )
    dataset = prepare(path, raw, raw.parent / "out")
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [6, 4, 2]


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("border", [int, float, str])
def test_a_border_may_be_a_number(raw: Path, kind: str, border: type) -> None:
    frame(NUMBERS[kind]).write_parquet(raw / "a.parquet")
    split = {"by": "time", "valid_from": border(1_700_000_006), "test_from": border(1_700_000_010)}
    dataset = made(raw, split=split)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [6, 4, 2]


def test_a_border_of_nanoseconds_is_exact(raw: Path) -> None:
    frame(EXACT["integers"]).write_parquet(raw / "a.parquet")
    split = {"by": "time", "valid_from": EXACT["integers"][6], "test_from": EXACT["integers"][10]}
    dataset = made(raw, split=split)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [6, 4, 2]


def test_words_compare_as_text(raw: Path) -> None:
    frame(range(ROWS), week=[f"week-{i:02d}" for i in range(ROWS)]).write_csv(raw / "a.csv")
    split = {"by": "time", "column": "week", "valid_from": "week-06", "test_from": "week-10"}
    dataset = made(raw, files=[{"path": "a.csv"}], split=split)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [6, 4, 2]


@pytest.mark.parametrize(
    ("times", "borders", "said"),
    [
        (HOURS, (5, 6), "is a number"),
        (range(ROWS), ("2024-01-02", "2024-01-03"), "is a date or time without a zone"),
        (HOURS, ("2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z"), "is a time with a zone"),
        (HOURS, ("2024-01", "2024-02"), "'2024-01' is no time"),
        (HOURS, ("2024-01-02", "soon"), "'soon' is no time"),
        (None, ("2024-01-02", "soon"), "only one is a number or an ISO 8601 time"),
    ],
)
def test_a_border_of_another_kind_is_refused(raw: Path, times: Any, borders: tuple[Any, Any], said: str) -> None:
    frame(HOURS if times is None else times).write_parquet(raw / "a.parquet")
    split = {"by": "time", "valid_from": borders[0], "test_from": borders[1]}
    fails(raw, "[split]", said, split=split if times is not None else {**split, "column": "time"})


def test_shares_may_go_by_a_column_of_their_own(raw: Path) -> None:
    frame(range(ROWS), day=HOURS[::-1]).write_parquet(raw / "a.parquet")
    features = [{"name": "x", "column": "item", "type": "dense"}, {"name": "user"}]
    test = made(raw, features=features, time=None, split={**SHARES, "column": "day"}).test
    assert sorted(test.batch(slice(None)).dense[:, 0].tolist()) == [0, 1]


def test_gaps_of_moments_are_in_seconds(raw: Path) -> None:
    for unit in ("ms", "ns"):
        frame(HOURS.cast(pl.Datetime(unit))).write_parquet(raw / "a.parquet")
        context = [{"name": "ago", "of": "time_gap", "edges": [6 * 3600, 10 * 3600]}]
        history = {"behaviour": "v", "sequences": SEQUENCES, "context": context}
        dataset = made(raw, unit, histories=[history], split={"by": "row_order", "valid": 2, "test": 2})
        batch = dataset.train.batch(slice(3, 4))
        assert batch.histories["ago"].values.tolist() == [3, 3, 1]  # 15, 10 and 5 hours ago


def test_gaps_of_nanoseconds_are_exact(raw: Path) -> None:
    hour = 3_600_000_000_000
    frame([1_700_000_000_000_000_001 + i * hour for i in range(ROWS)]).write_parquet(raw / "a.parquet")
    context = [{"name": "ago", "of": "time_gap", "edges": [hour, hour + 1]}]
    history = {"behaviour": "v", "sequences": SEQUENCES, "context": context}
    dataset = made(raw, histories=[history], split={"by": "row_order", "valid": 2, "test": 2})
    assert dataset.train.batch(slice(1, 2)).histories["ago"].values.tolist() == [2]


# what single cells say


@pytest.mark.parametrize(
    ("cell", "whole", "fraction"),
    [
        ("7", 7, 0),
        (" +7 ", 7, 0),
        ("-1.25", -2, 0.75),
        ("1e3", 1000, 0),
        ("-0.0", 0, 0),
        ("9007199254740993", 2**53 + 1, 0),
    ],
)
def test_numbers_in_text(cell: str, whole: int, fraction: float) -> None:
    time = parse_time(cell)
    assert time is not None
    assert (time.kind, int(time.whole[0])) == (0, whole)
    assert (0.0 if time.fraction is None else float(time.fraction[0])) == fraction


@pytest.mark.parametrize(
    "cell", ["", "x", "nan", "2024-13-01", "2024-01-05T06", "2024-01-05Z", "20240105T060000", "06:00"]
)
def test_texts_that_are_no_times(cell: str) -> None:
    assert parse_time(cell) is None


def test_offsets_go_both_ways() -> None:
    found = [parse_time(f"2024-01-05T06:00:00{zone}") for zone in ("Z", "+01:30", "-0130", "+01")]
    hours = [(int(time.whole[0]) - int(found[0].whole[0])) / 3.6e12 for time in found]  # type: ignore[union-attr]
    assert hours == [0, -1.5, 1.5, -1]


def test_keys_keep_order_and_equality_of_whole_and_broken_numbers() -> None:
    cells = [3, 2**60, 2**60 + 1, -5]
    broken = pl.DataFrame({"t": [3.5, 3.0, -4.5]}).select(instant(pl.col("t"), pl.Float64())).to_series()
    whole = pl.DataFrame({"t": cells}).select(instant(pl.col("t"), pl.Int64())).to_series()
    a, b = (Times.of(staged.struct.unnest(), "") for staged in (whole, broken))
    left, right = a.keys(b)
    values = [*cells, 3.5, 3, -4.5]
    keys = [*left.tolist(), *right.tolist()]
    for i in range(len(values)):
        for j in range(len(values)):
            assert (values[i] < values[j]) == (keys[i] < keys[j])

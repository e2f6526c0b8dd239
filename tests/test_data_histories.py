"""Histories hold exactly the group's events from before the row (checked against a plain loop), and nothing leaks."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_helpers import HEADER, prepared, raw_lines, values_of, write_lines

from rectab.data import PreparedDataset

SEEN = [{"name": "seen_item", "column": "item", "target": "item"}]
SPLIT_ROWS = {"train": range(24), "valid": range(24, 32), "test": range(32, 40)}


def decoded(dataset: PreparedDataset, feature: str, vocabulary: str) -> list[list[str | None]]:
    """Raw values of every row's history, in raw row order (row_order splits keep it)."""
    names, rows = values_of(dataset, vocabulary), []
    for split in (dataset.train, dataset.valid, dataset.test):
        jagged = split.batch(slice(None)).histories[feature]
        offsets = jagged.offsets.tolist()
        values = [names.get(i) for i in jagged.values.tolist()]
        rows += [values[a:b] for a, b in pairwise(offsets)]
    return rows


def known(dataset: PreparedDataset, rows: list[list[str]], vocabulary: str) -> list[list[str | None]]:
    names = set(values_of(dataset, vocabulary).values())
    return [[value if value in names else None for value in row] for row in rows]


@pytest.mark.parametrize("max_length", [None, 3])
@pytest.mark.parametrize("where", [None, "click = '1'"])
@pytest.mark.parametrize("by", ["time", "position"])
def test_log_history_is_the_groups_earlier_rows(
    tmp_path: Path, by: str, where: str | None, max_length: int | None
) -> None:
    rows = raw_lines(seed=4)
    order = np.random.default_rng(0).permutation(40)
    rows = [rows[i] for i in order]  # the log need not be sorted
    history = {"behaviour": "seen", "by": by, "where": where, "max_length": max_length, "sequences": SEEN}
    dataset = prepared(tmp_path, rows, histories=[history])
    place = {j: k for k, j in enumerate(sorted(range(40), key=lambda j: (int(rows[j][3]), j)))}
    expected = []
    for i, row in enumerate(rows):
        before = [
            j
            for j in sorted(range(40), key=place.__getitem__)
            if rows[j][1] == row[1]
            and (place[j] < place[i] if by == "position" else int(rows[j][3]) < int(row[3]))
            and (where is None or rows[j][0] == "1")
        ]
        expected.append([rows[j][2] for j in before][-(max_length or 1000) :])
    assert decoded(dataset, "seen_item", "item") == known(dataset, expected, "item")


def test_prior_events_come_first_and_side_tables_fill_them(tmp_path: Path) -> None:
    raw, rows = tmp_path / "raw", raw_lines()
    raw.mkdir()
    pl.DataFrame({"who": ["u0", "u1", "nobody"], "items": [["i7", "i8"], [], ["i1"]]}).write_parquet(
        raw / "prior.parquet"
    )
    write_lines(raw / "items.csv", [[f"i{i}", f"b{i % 3}"] for i in range(9)], ["item", "brand"])
    history = {
        "behaviour": "seen",
        "prior": {"path": "prior.parquet", "group": "who", "lists": {"item": "items"}},
        "sequences": [*SEEN, {"name": "seen_brand", "column": "brand", "target": "brand"}],
    }
    dataset = prepared(
        tmp_path,
        rows,
        tables=[{"path": "items.csv", "on": "item", "columns": ["brand"]}],
        features=[{"name": "user"}, {"name": "item"}, {"name": "brand"}],
        histories=[history],
    )
    items, brands = decoded(dataset, "seen_item", "item"), decoded(dataset, "seen_brand", "brand")
    for i, row in enumerate(rows):
        earlier = [r[2] for r in rows if r[1] == row[1] and int(r[3]) < int(row[3])]
        expected = (["i7", "i8"] if row[1] == "u0" else []) + earlier
        assert items[i] == known(dataset, [expected], "item")[0]
        assert brands[i] == [f"b{int(value[1:]) % 3}" for value in expected]
    batch = dataset.train.batch(slice(None))
    assert batch.histories["seen_item"].offsets is batch.histories["seen_brand"].offsets


def test_events_of_another_file_strictly_before_the_row(tmp_path: Path) -> None:
    raw, rows = tmp_path / "raw", raw_lines()
    raw.mkdir()
    generator = np.random.default_rng(1)
    events = [
        [f"u{generator.integers(0, 6)}", str(generator.integers(90, 125)), f"i{generator.integers(0, 9)}"]
        for _ in range(80)
    ]
    write_lines(raw / "events.csv", events, ["who", "when", "item"])
    history = {
        "behaviour": "seen",
        "source": "events",
        "path": "events.csv",
        "group": "who",
        "time": "when",
        "sequences": SEEN,
    }
    dataset = prepared(tmp_path, rows, histories=[history])
    ordered = sorted(events, key=lambda e: int(e[1]))
    expected = [[e[2] for e in ordered if e[0] == row[1] and int(e[1]) < int(row[3])] for row in rows]
    assert decoded(dataset, "seen_item", "item") == known(dataset, expected, "item")


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("newest_first", [True, False])
def test_list_columns(tmp_path: Path, as_text: bool, newest_first: bool) -> None:
    raw, generator = tmp_path / "raw", np.random.default_rng(2)
    raw.mkdir()
    lists = [[f"i{k}" for k in generator.integers(0, 9, generator.integers(0, 5))] for _ in range(40)]
    frame = pl.DataFrame(raw_lines(), schema=HEADER, orient="row").with_columns(
        past=pl.Series(lists, dtype=pl.List(pl.String))
    )
    if as_text:
        frame = frame.with_columns(pl.col("past").list.join("^"))
    frame.write_parquet(raw / "rows.parquet")
    history = {
        "behaviour": "past",
        "source": "list",
        "separator": "^" if as_text else None,
        "newest_first": newest_first,
        "max_length": 3,
        "sequences": [{"name": "past_item", "column": "past", "target": "item"}],
    }
    dataset = prepared(tmp_path, [], files=[{"path": "rows.parquet"}], histories=[history])
    expected = [(row[::-1] if newest_first else row)[-3:] for row in lists]
    assert decoded(dataset, "past_item", "item") == known(dataset, expected, "item")


def test_counts_are_of_training_rows_then_of_events_training_rows_see(tmp_path: Path) -> None:
    raw, rows = tmp_path / "raw", raw_lines()
    raw.mkdir()
    events = [["u0", "1", "only_event"], ["u0", "2", "only_event"], ["u0", "99999", "future"], ["u0", "3", "i0"]]
    rows[0][1] = "u0"
    write_lines(raw / "events.csv", events, ["user", "time", "item"])
    history = {"behaviour": "seen", "source": "events", "path": "events.csv", "sequences": SEEN}
    dataset = prepared(tmp_path, rows, histories=[history])
    ids = {value: i for i, value in values_of(dataset, "item").items()}
    counts = dataset.schema.vocabularies[dataset.schema.vocabulary_index("item")].counts
    assert counts is not None
    assert counts[ids["only_event"]] == 2
    assert "future" not in ids  # seen by no training row
    assert counts[ids["i0"]] == sum(row[2] == "i0" for row in rows[:24])


def test_changing_what_comes_later_changes_nothing_for_training(tmp_path: Path) -> None:
    """No validation or test cell (label, item, price) can be felt in the training arrays."""
    history = {"behaviour": "seen", "where": "click = '1'", "sequences": SEEN}
    features = [{"name": "user"}, {"name": "item"}, {"name": "price", "type": "dense", "transform": "standardize"}]
    rows = raw_lines()
    first = prepared(tmp_path, rows, histories=[history], features=features)
    changed = [row[:] for row in rows]
    for row in changed[24:]:
        row[0], row[2], row[4] = str(1 - int(row[0])), "i_new", "1e6"
    second = prepared(tmp_path, changed, "changed", histories=[history], features=features)
    a, b = first.train.batch(slice(None)), second.train.batch(slice(None))
    assert (a.ids == b.ids).all()
    assert (a.dense == b.dense).all()
    assert (a.histories["seen_item"].values == b.histories["seen_item"].values).all()
    assert (a.histories["seen_item"].offsets == b.histories["seen_item"].offsets).all()


WATCHED: dict[str, Any] = {
    "label": None,
    "split": {"by": "last_per_group", "valid": 1, "test": 2},
    "negatives": {"item": "item", "item_columns": ["brand"], "ratio": 2, "seed": 7},
    "tables": [{"path": "items.csv", "on": "item", "columns": ["brand"]}],
    "features": [{"name": "user"}, {"name": "item"}, {"name": "brand"}, {"name": "age"}],
    "histories": [{"behaviour": "seen", "by": "position", "sequences": SEEN}],
}


def sequences(tmp_path: Path, **changes: Any) -> tuple[PreparedDataset, list[list[str]]]:
    """Each of 6 users watches 7 different ones of 30 items."""
    raw, generator = tmp_path / "raw", np.random.default_rng(3)
    raw.mkdir(exist_ok=True)
    rows = [
        ["1", f"u{user}", f"i{item}", str(position), "1", str(20 + user)]
        for user in range(6)
        for position, item in enumerate(generator.permutation(30)[:7])
    ]
    write_lines(raw / "items.csv", [[f"i{i}", f"b{i}"] for i in range(30)], ["item", "brand"])
    return prepared(tmp_path, rows, **{**WATCHED, **changes}), rows


def test_last_rows_of_each_group_are_test_and_those_before_validation(tmp_path: Path) -> None:
    dataset, _ = sequences(tmp_path)
    for split, per_user in ((dataset.train, 4), (dataset.valid, 1), (dataset.test, 2)):
        assert len(split) == 6 * per_user * 3
        assert split.groups is not None
        assert (np.bincount(split.groups) == per_user * 3).all()
    lengths = dataset.test.batch(slice(None)).histories["seen_item"].lengths()
    assert set(lengths.tolist()) == {5, 6}


def test_negatives_are_new_to_the_user_and_carry_the_positives_history(tmp_path: Path) -> None:
    dataset, rows = sequences(tmp_path)
    owned = defaultdict(set)
    for row in rows:
        owned[row[1]].add(row[2])
    users, items, brands = (values_of(dataset, name) for name in ("user", "item", "brand"))
    for split in (dataset.train, dataset.valid, dataset.test):
        batch = split.batch(slice(None))
        history = batch.histories["seen_item"]
        assert batch.labels is not None
        assert batch.labels.tolist() == [1, 0, 0] * (len(split) // 3)
        for i in range(len(split)):
            user, item, brand, age = batch.ids[i].tolist()
            positive = i - i % 3
            past = history.values[history.offsets[i] : history.offsets[i + 1]].tolist()
            assert past == history.values[history.offsets[positive] : history.offsets[positive + 1]].tolist()
            assert int(batch.ids[positive, 1]) == 0 or int(batch.ids[positive, 1]) not in past
            if item != 0:
                assert (items[item] in owned[str(users[user])]) == (i == positive)
                assert brands.get(brand) in (f"b{str(items[item])[1:]}", None)
            assert age == int(batch.ids[positive, 3])


def test_negatives_follow_their_seed(tmp_path: Path) -> None:
    first, _ = sequences(tmp_path)
    same, _ = sequences(tmp_path, name="same")
    other, _ = sequences(tmp_path, name="other", negatives={**WATCHED["negatives"], "seed": 8})
    ids = [dataset.train.batch(slice(None)).ids for dataset in (first, same, other)]
    assert (ids[0] == ids[1]).all()
    assert ids[0].shape == ids[2].shape
    assert not (ids[0][:, 1] == ids[2][:, 1]).all()


def test_min_history_drops_first_rows_but_keeps_them_as_events(tmp_path: Path) -> None:
    dataset, _ = sequences(tmp_path, min_history=1)
    assert len(dataset.train) == 6 * 3 * 3
    assert dataset.train.batch(slice(None)).histories["seen_item"].lengths().min() == 1


def test_a_group_that_has_everything_cannot_have_negatives(tmp_path: Path) -> None:
    from rectab.data import DataError

    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "items.csv", [["i0", "b"], ["i1", "b"]], ["item", "brand"])
    rows = [["1", "u0", f"i{i % 2}", str(i), "1", "20"] for i in range(6)]
    with pytest.raises(DataError, match="every item"):
        prepared(tmp_path, rows, **WATCHED)

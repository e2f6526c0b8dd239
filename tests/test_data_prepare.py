"""prepare: ids follow training counts only, whatever the file format; numbers, hashing, splits, and opening."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import xxhash
from data_helpers import HEADER, prepared, raw_lines, recipe, values_of, write_lines

from rectab.data import DataError, PreparedDataset, prepare, render_summary


def test_ids_are_numbered_by_training_counts_and_decode_to_raw_values(tmp_path: Path) -> None:
    rows = raw_lines()
    dataset = prepared(tmp_path, rows)
    train = [row[2] for row in rows[:24]]
    names = values_of(dataset, "item")
    vocabulary = dataset.schema.vocabularies[dataset.schema.vocabulary_index("item")]
    assert vocabulary.counts is not None
    for index, value in names.items():
        assert vocabulary.counts[index] == train.count(str(value))
    assert list(vocabulary.counts[1:]) == sorted(vocabulary.counts[1:], reverse=True)
    assert vocabulary.counts.sum() == 24
    decoded = [names.get(int(i)) for i in dataset.test.column("item")]
    assert decoded == [row[2] if row[2] in train else None for row in rows[32:]]


def test_values_seen_only_outside_training_or_too_rarely_are_id_0(tmp_path: Path) -> None:
    rows = raw_lines()
    rows[3][2], rows[39][2] = "once", "late"
    dataset = prepared(tmp_path, rows, features=[{"name": "item", "min_count": 2}])
    assert "once" not in values_of(dataset, "item").values()
    assert dataset.train.column("item")[3] == 0
    assert dataset.test.column("item")[7] == 0
    counts = dataset.schema.vocabularies[0].counts
    assert counts is not None
    assert counts[0] >= 1  # the rare value's training row
    assert counts.sum() == 24


def test_missing_value_is_a_value_of_its_own(tmp_path: Path) -> None:
    rows = raw_lines()
    for i in (0, 5, 35):
        rows[i][2] = ""
    dataset = prepared(tmp_path, rows)
    ids = dataset.train.column("item")
    assert ids[0] == ids[5] == dataset.test.column("item")[3] > 0
    assert values_of(dataset, "item")[int(ids[0])] is None


def test_vocabulary_shared_by_two_columns(tmp_path: Path) -> None:
    rows = raw_lines()
    for row in rows:
        row[5] = row[2]
    features = [{"name": "item"}, {"name": "other", "column": "age", "vocabulary": "item"}]
    dataset = prepared(tmp_path, rows, features=features)
    assert len(dataset.schema.vocabularies) == 1
    assert (dataset.train.column("item") == dataset.train.column("other")).all()
    counts = dataset.schema.vocabularies[0].counts
    assert counts is not None
    assert counts.sum() == 48


def same_contents(a: PreparedDataset, b: PreparedDataset) -> bool:
    rows = slice(0, 24)
    left, right = a.train.batch(rows), b.train.batch(rows)
    return bool(
        (left.ids == right.ids).all() and (left.dense == right.dense).all() and (left.labels == right.labels).all()
    )


def test_file_formats_give_the_same_data_set(tmp_path: Path) -> None:
    rows, raw = raw_lines(), tmp_path / "raw"
    plain = prepared(tmp_path, rows)
    write_lines(raw / "rows.tsv.gz", rows, separator="\t")
    write_lines(raw / "odd.dat", rows, None, separator="::")
    pl.DataFrame(rows, schema=HEADER, orient="row").write_parquet(raw / "rows.parquet")
    (raw / "crlf.csv").write_bytes((raw / "rows.csv").read_bytes().replace(b"\n", b"\r\n"))
    (raw / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (raw / "rows.csv").read_bytes())
    (raw / "quoted.csv").write_text((raw / "rows.csv").read_text().replace("u1", '"u1"'))
    objects = [json.dumps({"deep": [dict(zip(HEADER, (c or None for c in row), strict=True))]}) for row in rows]
    (raw / "rows.jsonl").write_text("\n".join(objects))
    forms = {
        "rows.tsv.gz": {"separator": "\t"},
        "odd.dat": {"kind": "csv", "separator": "::", "header": False, "columns": HEADER},
        "rows.parquet": {},
        "crlf.csv": {},
        "bom.csv": {},
        "quoted.csv": {"quote": '"'},
        "rows.jsonl": {"kind": "jsonl", "fields": {name: f"deep.0.{name}" for name in HEADER}},
    }
    for path, form in forms.items():
        other = prepare(recipe(files=[{"path": path, "format": form}]), raw, tmp_path / path)
        assert same_contents(plain, other), path


def test_packed_file_stands_in_for_the_plain_one_and_has_its_checksum(tmp_path: Path) -> None:
    import hashlib

    plain = prepared(tmp_path, raw_lines())
    path = tmp_path / "raw" / "rows.csv"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("rows.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    files = [{"path": "rows.csv", "sha256": digest}]
    assert same_contents(plain, prepare(recipe(files=files), tmp_path / "raw", tmp_path / "packed"))


def test_latin_1_text_is_read_as_such(tmp_path: Path) -> None:
    rows = raw_lines()
    rows[0][2] = rows[1][2] = "café"
    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "rows.csv", rows)
    (raw / "rows.csv").write_bytes((raw / "rows.csv").read_text(encoding="utf-8").encode("latin-1"))
    dataset = prepare(recipe(format={"encoding": "latin-1"}), raw, tmp_path / "out")
    assert "café" in values_of(dataset, "item").values()


def test_hashed_column_serves_any_value_by_xxhash(tmp_path: Path) -> None:
    rows = raw_lines()
    rows[39][2] = "never seen"
    dataset = prepared(tmp_path, rows, features=[{"name": "item", "hashed": True}])
    ids = np.concatenate([split.column("item") for split in (dataset.train, dataset.valid, dataset.test)])
    expected = [np.uint64(xxhash.xxh64_intdigest(row[2].encode())).astype(np.int64) for row in rows]
    assert ids.dtype == np.int64
    assert ids.tolist() == [int(e) for e in expected]
    vocabulary = dataset.schema.vocabularies[0]
    assert vocabulary.hashed
    assert vocabulary.ids is not None
    assert vocabulary.counts is not None
    assert (np.diff(vocabulary.ids) > 0).all()
    assert set(vocabulary.ids) == set(ids[:24])
    assert vocabulary.counts.sum() == 24
    assert dataset.summary["columns"][0]["unseen"]["test"] >= 1 / 8


def test_dense_transforms(tmp_path: Path) -> None:
    rows = raw_lines()
    rows[0][4] = "-3"
    features = [
        {"name": "item"},
        {"name": "plain", "column": "price", "type": "dense"},
        {"name": "logged", "column": "price", "type": "dense", "transform": "log"},
        {"name": "scaled", "column": "price", "type": "dense", "transform": "standardize"},
    ]
    dataset = prepared(tmp_path, rows, features=features)
    numbers = np.array([float(row[4]) if row[4] else np.nan for row in rows])
    train = numbers[:24]
    dense = dataset.test.batch(np.arange(8)).dense.numpy()
    test = numbers[32:]
    scaled = (test - np.nanmean(train)) / np.nanstd(train)
    for j, expected in enumerate((test, np.log1p(np.maximum(test, 0)), scaled)):
        np.testing.assert_allclose(dense[:, j], np.nan_to_num(expected), rtol=1e-5, atol=1e-6)
    assert dataset.train.batch(np.arange(1)).dense[0, 1] == 0  # log1p(max(-3, 0))


def test_integers_become_ids(tmp_path: Path) -> None:
    features = [
        {"name": "quarter", "column": "age", "bins": "quantile", "num_bins": 4},
        {"name": "given", "column": "age", "bins": "bucketize", "edges": [25, 40]},
        {"name": "squared", "column": "age", "bins": "log_squared"},
    ]
    dataset = prepared(tmp_path, features=features)
    ages = np.array([20 + i % 30 for i in range(40)])
    train = dataset.train
    edges = np.quantile(ages[:24], [0.25, 0.5, 0.75])
    for name, bins in (
        ("quarter", np.searchsorted(edges, ages[:24], side="right")),
        ("given", np.digitize(ages[:24], [25, 40])),
        ("squared", np.floor(np.log(ages[:24]) ** 2).astype(int)),
    ):
        decoded = [int(str(values_of(dataset, name)[int(i)])) for i in train.column(name)]
        assert decoded == bins.tolist(), name
    counts = dataset.schema.vocabularies[0].counts
    assert counts is not None
    assert counts[1:].max() - counts[1:].min() <= 2  # quantiles hold about equally many


def test_log_squared_keeps_small_and_negative_numbers_and_missing_ones(tmp_path: Path) -> None:
    rows = raw_lines()
    for i, text in enumerate(("-2", "0", "1", "2", "3", "")):
        rows[i][4] = text
    dataset = prepared(tmp_path, rows, features=[{"name": "price", "bins": "log_squared"}])
    decoded = [values_of(dataset, "price")[int(i)] for i in dataset.train.column("price")[:6]]
    assert decoded == ["-2", "0", "1", "2", "1", None]


def test_side_table_and_derived_columns(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "items.csv", [[f"i{i}", f"brand{i % 2}"] for i in range(8)], ["id", "brand"])  # no i8
    rows = raw_lines()
    dataset = prepared(
        tmp_path,
        rows,
        tables=[{"path": "items.csv", "on": "item", "key": "id", "columns": ["brand"]}],
        derived=[{"name": "decade", "sql": "SUBSTR(age, 1, 1)"}],
        features=[{"name": "brand"}, {"name": "decade"}],
    )
    brands, decades = values_of(dataset, "brand"), values_of(dataset, "decade")
    for i, row in enumerate(rows[:24]):
        expected = None if row[2] == "i8" else f"brand{int(row[2][1:]) % 2}"
        assert brands[int(dataset.train.column("brand")[i])] == expected
        assert decades[int(dataset.train.column("decade")[i])] == row[5][0]


def test_ratings_are_kept_as_numbers(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, label={"column": "age", "rating": True}, features=[{"name": "item"}])
    ages = [float(row[HEADER.index("age")]) for row in raw_lines()]
    labels = [label for split in (dataset.train, dataset.valid, dataset.test) for label in split.labels.tolist()]
    assert labels == ages
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_summary(dataset))
    text = console.export_text()
    assert "mean label" in text
    assert f"{np.mean(ages[:24]):.3f}" in text


def test_label_threshold(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, label={"column": "age", "at_least": 30}, features=[{"name": "item"}])
    assert dataset.train.labels.tolist() == [float(20 + i % 30 >= 30) for i in range(24)]


def labels_of_splits(dataset: PreparedDataset) -> dict[str, list[float]]:
    return {name: getattr(dataset, name).batch(slice(None)).dense[:, 0].tolist() for name in ("train", "valid", "test")}


@pytest.mark.parametrize(
    ("split", "valid", "test"),
    [
        ({"by": "row_order", "valid": 0.1, "test": 0.25}, range(26, 30), range(30, 40)),
        ({"by": "time", "valid": 0.1, "test": 0.25}, range(26, 30), range(30, 40)),
        ({"by": "time", "valid_from": 110, "test_from": 115}, range(20, 30), range(30, 40)),
        (
            {"by": "time", "column": "stamp", "valid_from": "2020-01-20", "test_from": "2020-01-30"},
            range(19, 29),
            range(29, 40),
        ),
    ],
)
def test_splits_by_order_and_time(tmp_path: Path, split: dict[str, object], valid: range, test: range) -> None:
    rows = [[*row, f"2020-01-{i + 1:02d}", str(i)] for i, row in enumerate(raw_lines())]
    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "rows.csv", rows, [*HEADER, "stamp", "number"])
    features = [{"name": "item"}, {"name": "number", "type": "dense"}]
    got = labels_of_splits(prepared(tmp_path, features=features, split=split))
    assert got["valid"] == list(valid)
    assert got["test"] == list(test)
    assert got["train"] == [i for i in range(40) if i not in valid and i not in test]


def test_random_split_follows_its_seed_and_loses_no_row(tmp_path: Path) -> None:
    rows = [[*row, str(i)] for i, row in enumerate(raw_lines())]
    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "rows.csv", rows, [*HEADER, "number"])
    features = [{"name": "item"}, {"name": "number", "type": "dense"}]
    got = [
        labels_of_splits(
            prepared(
                tmp_path, name=f"out{i}", features=features, split={"by": "random", "seed": seed, "valid": 8, "test": 8}
            )
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    assert got[0] == got[1] != got[2]
    assert sorted(chain(*got[0].values())) == list(range(40))
    assert len(got[0]["test"]) == 8


def test_files_may_give_the_split(tmp_path: Path) -> None:
    raw, rows = tmp_path / "raw", raw_lines()
    raw.mkdir()
    files = []
    for name, part in (("train", rows[:20]), ("valid", rows[20:28]), ("test", rows[28:])):
        write_lines(raw / f"{name}.csv", part)
        files.append({"path": f"{name}.csv", "split": name})
    dataset = prepared(tmp_path, files=files, split={"by": "files"})
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [20, 8, 12]


def test_batches_are_rows_and_slices_agree_with_indices(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    rows = np.array([5, 2, 2, 23])
    batch, whole = dataset.train.batch(rows), dataset.train.batch(slice(0, 24))
    assert batch.ids.dtype == torch.int64
    assert batch.dense.dtype == torch.float32
    assert (batch.ids == whole.ids[rows]).all()
    assert (batch.labels == whole.labels[rows]).all()
    assert batch.groups is not None
    assert whole.groups is not None
    assert (batch.groups == whole.groups[rows]).all()
    with pytest.raises(IndexError):
        dataset.train.batch(np.array([24]))


def test_restrict_and_halves_partition_a_split(tmp_path: Path) -> None:
    valid = prepared(tmp_path).valid
    learn, select = valid.sample_halves(3)
    again, _ = valid.sample_halves(3)
    key = lambda split: [tuple(row) for row in split.batch(slice(None)).ids.tolist()]  # noqa: E731
    assert key(learn) == key(again)
    assert sorted(key(learn) + key(select)) == sorted(key(valid))
    assert len(learn) == len(select) == 4
    part = learn.restrict(np.array([2, 0]))
    assert key(part) == [key(learn)[2], key(learn)[0]]
    assert part.labels.tolist() == [learn.labels[2], learn.labels[0]]


def test_open_explains_what_is_wrong(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        PreparedDataset.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a prepared data set"):
        PreparedDataset.open(tmp_path / "raw")
    for name, spoil, expected in (
        ("version", lambda d: _edit_version(d), "version 999"),
        ("cut", lambda d: _cut(d / "train" / "ids.npy"), "cut short"),
        ("gone", lambda d: (d / "test" / "labels.npy").unlink(), "missing"),
        ("json", lambda d: _cut(d / "schema.json"), "not valid JSON"),
    ):
        copy = tmp_path / name
        shutil.copytree(dataset.path, copy)
        spoil(copy)
        with pytest.raises(DataError, match=expected):
            PreparedDataset.open(copy)


def _edit_version(folder: Path) -> None:
    content = json.loads((folder / "schema.json").read_text())
    (folder / "schema.json").write_text(json.dumps({**content, "version": 999}))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    first, again = prepared(tmp_path), prepared(tmp_path, name="elsewhere")
    assert first.fingerprint() == again.fingerprint() == PreparedDataset.open(first.path).fingerprint()
    rows = raw_lines()
    rows[0][5] = "21"
    assert prepared(tmp_path, rows, name="other").fingerprint() != first.fingerprint()


def test_nothing_but_the_data_set_is_left(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]
    assert not (dataset.path / "scratch").exists()


def test_summary_shows_rows_rates_and_cardinalities(tmp_path: Path) -> None:
    from rich.console import Console

    dataset = prepared(tmp_path)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_summary(dataset))
    text = console.export_text()
    for expected in ("train", "24", "50.00%", "item", "unseen in test"):
        assert expected in text
    assert dataset.summary["columns"][1]["cardinality"] == dataset.schema.vocabularies[1].num_embeddings


@pytest.mark.parametrize(("column", "sizes"), [("user", (1, 1)), ("item", (0.3, 0.2)), (None, (0.2, 2))])
def test_split_by_group_keeps_groups_whole(tmp_path: Path, column: str | None, sizes: tuple[float, float]) -> None:
    split = {"by": "group", "seed": 3, "valid": sizes[0], "test": sizes[1]} | ({"column": column} if column else {})
    rows = raw_lines(200)
    dataset = prepared(tmp_path, rows, split=split, features=[{"name": column or "user", "hashed": True}])
    ids = [set(part.column(column or "user").tolist()) for part in (dataset.train, dataset.valid, dataset.test)]
    count = len({row[HEADER.index(column or "user")] for row in rows})
    assert sum(map(len, ids)) == len(set.union(*ids)) == count
    assert [len(part) for part in ids[1:]] == [round(size * count) if size < 1 else size for size in sizes]
    again = prepared(tmp_path, name="again", split=split, features=[{"name": column or "user", "hashed": True}])
    assert again.fingerprint() == dataset.fingerprint()
    other = prepared(tmp_path, name="other", split={**split, "seed": 4}, features=[{"name": column or "user"}])
    assert other.fingerprint() != dataset.fingerprint()


def test_summary_never_cuts_a_name(tmp_path: Path) -> None:
    from rich.console import Console

    from rectab.data import render_summary

    name = "a_name_that_is_far_too_long_for_a_narrow_terminal"
    dataset = prepared(tmp_path, features=[{"name": "user"}, {"name": name, "column": "item"}])
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(render_summary(dataset))
    cells = [line.split("│")[1].strip() for line in console.export_text().splitlines() if line.startswith("│")]
    assert name in "".join(cells)
    assert "…" not in "".join(cells)

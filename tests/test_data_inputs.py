"""Folders, patterns, partitions and odd names as input: the files that are meant, each once, in order."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from data_helpers import HEADER, raw_lines, recipe, values_of, write_lines

from rectab.data import DataError, PreparedDataset, RecipeError, load_recipe, prepare

ODD_NAMES = ["log[ab]", "a*b", "what?", "two words", "{x}", "~", "%41", "é", "[!a]*", "-", "a=b"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def write(path: Path, rows: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gz", ".zst"):
        text = "".join(",".join(row) + "\n" for row in [HEADER, *rows]).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else zstd.compress(text))
    elif path.suffix == ".parquet":
        with path.open("wb") as file:
            pl.DataFrame(rows, schema=HEADER, orient="row").write_parquet(file)
    else:
        write_lines(path, rows)
    return path


def made(raw: Path, out: str = "out", files: list[dict[str, Any]] | None = None, **changes: Any) -> PreparedDataset:
    return prepare(recipe(files=files or [{"path": "log"}], **changes), raw, raw.parent / out)


def refused(raw: Path, message: str, files: list[dict[str, Any]] | None = None, **changes: Any) -> None:
    with pytest.raises(DataError, match=message):
        made(raw, files=files, **changes)
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw"]


def rows_of(dataset: PreparedDataset) -> list[Any]:
    return [[b.ids.tolist(), b.dense.tolist()] for s in (dataset.train, dataset.test) for b in [s.batch(slice(None))]]


def test_files_of_a_folder_are_one_after_the_other_by_name(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "whole.csv", rows)
    write(raw / "log/b/1.csv.gz", rows[20:25])
    write(raw / "log/b/2.csv.zst", rows[25:])
    write(raw / "log/c.csv", rows[:0])
    write(raw / "log/a.csv", rows[:20])
    for ignored in ("_SUCCESS", ".a.csv.crc", "_temporary/d.csv", ".git/e.csv"):
        write(raw / "log" / ignored, [["x"] * 6])
    whole = made(raw, "whole", [{"path": "whole.csv"}])
    folder = made(raw, "folder")
    assert rows_of(folder) == rows_of(whole)
    noted = [source["file"] for source in folder.description["sources"]]
    assert noted == ["log/a.csv", "log/b/1.csv.gz", "log/b/2.csv.zst", "log/c.csv"]
    pattern = made(raw, "pattern", [{"pattern": "log/[ab]*.csv"}, {"pattern": "log/**/*.csv.*"}])
    assert rows_of(pattern) == rows_of(whole)


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_paths_are_no_patterns(tmp_path: Path, name: str, ending: str) -> None:
    raw = tmp_path / f"raw {name}"
    rows = raw_lines()
    write(raw / f"plain{ending}", rows)
    write(raw / f"{name}{ending}", rows)
    for decoy in ("loga", "logb", "ab", "axb", "whatx", "A", "x"):
        write(raw / f"{decoy}{ending}", [["1", "wrong", "wrong", "5", "1", "1"]] * 40)
    items = write_lines(raw / f"{name} items.csv", [[f"i{i}", f"b{i % 2}"] for i in range(9)], ["item", "brand"])
    history = {"behaviour": "seen", "source": "events", "path": f"{name}{ending}"}
    changes: dict[str, Any] = {
        "tables": [{"path": items.name, "on": "item", "columns": ["brand"]}],
        "features": [{"name": "user"}, {"name": "item"}, {"name": "brand"}],
        "histories": [{**history, "sequences": [{"name": "h", "column": "item", "target": "item"}]}],
    }
    dataset = prepare(recipe(files=[{"path": f"{name}{ending}"}], **changes), raw, tmp_path / f"out {name}")
    expected = prepare(recipe(files=[{"path": f"plain{ending}"}], **changes), raw, tmp_path / "expected")
    assert rows_of(dataset) == rows_of(expected)
    assert "wrong" not in values_of(dataset, "user").values()
    assert PreparedDataset.open(tmp_path / f"out {name}").fingerprint() == dataset.fingerprint()


def test_jsonl_with_an_odd_name(raw: Path) -> None:
    lines = [f'{{"click": {row[0]}, "user": "{row[1]}"}}\n' for row in raw_lines()]
    (raw / "a[1]*.jsonl").write_text("".join(lines))
    form = {"kind": "jsonl", "fields": {"click": "click", "user": "user"}}
    dataset = made(
        raw, files=[{"path": "a[1]*.jsonl"}], format=form, features=[{"name": "user"}], group=None, time=None
    )
    assert len(dataset.train) == 24


def test_partitions_are_columns(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "log/day=2024-01-01/city=S%C3%A3o%20Paulo/part.csv", rows[:20])
    write(raw / "log/day=2024-01-02/city=__HIVE_DEFAULT_PARTITION__/part.csv", rows[20:30])
    write(raw / "log/day=2024-01-03/city=/part.csv", rows[30:])
    features = [{"name": "user"}, {"name": "day"}, {"name": "city"}]
    split = {"by": "time", "column": "day", "valid_from": "2024-01-02", "test_from": "2024-01-03"}
    dataset = made(raw, features=features, split=split)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (20, 10, 10)
    assert values_of(dataset, "day") == {1: "2024-01-01"}
    assert values_of(dataset, "city") == {1: "São Paulo"}
    same = made(raw, "pattern", [{"pattern": "log/*/*/*.csv"}], features=features, split=split)
    assert rows_of(same) == rows_of(dataset)
    with pytest.raises(DataError, match="no column 'day'"):
        made(raw, "names", [{"path": "log", "hive": False}], features=features)


def test_partition_that_is_also_a_column_of_the_file(raw: Path) -> None:
    write(raw / "log/user=u1/a.csv", raw_lines())
    refused(raw, r"a\.csv: column 'user' is in the file and in the name of a folder, user=.*hive = false")
    assert "u0" in values_of(made(raw, files=[{"path": "log", "hive": False}]), "user").values()


def test_partition_that_one_file_lacks(raw: Path) -> None:
    write(raw / "log/day=1/a.csv", raw_lines())
    write(raw / "log/b.csv", raw_lines())
    refused(raw, r"a\.csv.*columns are not those of .*b\.csv: 'day' is only in a\.csv")


def test_one_partition_column_on_two_levels(raw: Path) -> None:
    write(raw / "log/day=1/day=2/a.csv", raw_lines())
    refused(raw, r"a\.csv: lies in two folders of 'day'")


def test_files_of_a_folder_have_the_same_columns_in_any_order(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "log/a.csv", rows[:20])
    order = [3, 0, 5, 1, 2, 4]
    write_lines(raw / "log/b.csv", [[row[i] for i in order] for row in rows[20:]], [HEADER[i] for i in order])
    write(raw / "whole.csv", rows)
    assert rows_of(made(raw)) == rows_of(made(raw, "whole", [{"path": "whole.csv"}]))
    for name in ("out", "whole"):
        for path in sorted((raw.parent / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (raw.parent / name).rmdir()
    write_lines(raw / "log/c.csv", [[*row, "1"] for row in rows], [*HEADER, "more"])
    refused(raw, r"c\.csv: its columns are not those of .*a\.csv: 'more' is only in c\.csv")


def test_types_may_differ_where_they_mean_the_same(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "whole.csv", rows)
    frame = pl.DataFrame(rows, schema=HEADER, orient="row")
    types = {"click": pl.Int8, "time": pl.Int32, "price": pl.Float32, "age": pl.Float64}
    (raw / "log").mkdir()
    with_types = frame[:20].with_columns(pl.col("price").replace("", None)).cast(types)  # type: ignore[arg-type]
    with_types.write_parquet(raw / "log/a.parquet")
    frame[20:].write_parquet(raw / "log/b.parquet")
    features = [{"name": "user"}, {"name": "item"}, {"name": "age"}]
    expected = made(raw, "whole", [{"path": "whole.csv"}], features=features)
    assert rows_of(made(raw, features=features)) == rows_of(expected)


def test_one_kind_of_file_in_a_folder(raw: Path) -> None:
    write(raw / "log/a.csv", raw_lines())
    write(raw / "log/b.parquet", raw_lines())
    refused(raw, r"b\.parquet: parquet beside .*a\.csv, which is csv")
    assert len(made(raw, files=[{"pattern": "log/*.parquet"}]).train) == 24


def test_a_file_beside_its_packed_self_is_refused(raw: Path) -> None:
    write(raw / "log/a.csv", raw_lines())
    write(raw / "log/a.csv.gz", raw_lines())
    refused(raw, r"a\.csv\.gz: beside a\.csv, which would be the same rows again")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{"path": "log/a.csv"}, {"pattern": "log/*.csv"}], r"a\.csv: would be read twice .it is named twice"),
        ([{"path": "log/a.csv", "split": "train"}, {"path": "log", "split": "test"}], "would be read twice"),
        ([{"path": "log/a.csv"}, {"pattern": "link.csv"}], r"link\.csv: would be read twice .*a\.csv is the same"),
    ],
)
def test_no_file_is_read_twice(raw: Path, files: list[dict[str, Any]], message: str) -> None:
    write(raw / "log/a.csv", raw_lines())
    (raw / "link.csv").symlink_to("log/a.csv")
    refused(raw, message, files, **({"split": {"by": "files"}} if "split" in files[0] else {}))


def test_a_file_may_be_named_for_two_splits(raw: Path) -> None:
    write(raw / "a.csv", raw_lines())
    splits = [{"path": "a.csv", "split": split} for split in ("train", "valid", "test")]
    dataset = made(raw, files=splits, split={"by": "files"})
    assert len(dataset.train) == len(dataset.test) == 40


def test_links_are_followed_unless_they_go_round_or_nowhere(raw: Path) -> None:
    rows = raw_lines()
    write(raw.parent / "raw/store/x/b.csv", rows[20:])
    write(raw / "store/a.csv", rows[:20])
    (raw / "log").mkdir()
    (raw / "log/1.csv").symlink_to(raw / "store/a.csv")
    (raw / "log/more").symlink_to(raw / "store/x", target_is_directory=True)
    write(raw / "whole.csv", rows)
    assert rows_of(made(raw)) == rows_of(made(raw, "whole", [{"path": "whole.csv"}]))
    os.rename(raw.parent / "out", raw / "out")  # noqa: PTH104
    os.rename(raw.parent / "whole", raw / "whole")  # noqa: PTH104
    (raw / "log/round").symlink_to(raw / "log", target_is_directory=True)
    refused(raw, r"log/round: a link to a folder that it lies in")
    (raw / "log/round").unlink()
    (raw / "log/gone.csv").symlink_to(raw / "nothing")
    refused(raw, r"gone\.csv: is no file")
    refused(raw, r"gone\.csv: is no file", [{"pattern": "log/*.csv"}])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([{"path": "none"}], "no such file"),
        ([{"path": "none*.csv"}], "no such file.*say pattern = "),
        ([{"path": "empty"}], "empty: a folder without files"),
        ([{"pattern": "none*.csv"}], r"raw: no file matches the pattern 'none\*\.csv'"),
        ([{"pattern": "l*"}], "matches only folders, so end it with"),
        ([{"pattern": "odd[1].csv"}], "a file of exactly this name: say path = "),
        ([{"path": "log", "sha256": "0" * 64}], "sha256 is of one file"),
    ],
)
def test_inputs_that_are_not_there(raw: Path, files: list[dict[str, Any]], message: str) -> None:
    write(raw / "log/a.csv", raw_lines())
    write(raw / "odd[1].csv", raw_lines())
    write(raw / "empty/_SUCCESS", [])
    refused(raw, message, files)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("{ path = 'a', pattern = 'b' }", "path .a file or a folder. or pattern, not both"),
        ("{ split = 'train' }", "give path"),
        ("{ path = '' }", "must not be empty"),
        ("{ pattern = 'a*', sha256 = 'x' }", "sha256 is of one file"),
    ],
)
def test_locations_that_cannot_be(tmp_path: Path, files: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(f"name = 'x'\nfiles = [{files}]\n")
    with pytest.raises(RecipeError, match=f"files.0.: .*{message}"):
        load_recipe(tmp_path / "r.toml")


def test_errors_name_the_file_of_the_folder_and_its_line(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "log/a.csv", rows[:20])
    write(raw / "log/b.csv.gz", [*rows[20:], ["7", *rows[0][1:]]])
    refused(raw, r"log/b\.csv\.gz, line 22, column 'click'")
    (raw / "log/c.csv").write_bytes(b"")
    refused(raw, r"log/c\.csv: empty, where a header line was expected")


def test_events_prior_events_and_side_tables_may_lie_in_folders(raw: Path) -> None:
    rows = raw_lines()
    write(raw / "log/a.csv", rows)
    items = [[f"i{i}", f"b{i}"] for i in range(9)]
    for name, part in (("x", items[:4]), ("y", items[4:])):
        (raw / "items").mkdir(exist_ok=True)
        write_lines(raw / f"items/{name}.csv", part, ["item", "brand"])
        (raw / f"seen/user_kind={name}").mkdir(parents=True)
        write_lines(
            raw / f"seen/user_kind={name}/1.csv", [["u1", "50", item] for item, _ in part], ["user", "time", "item"]
        )
        (raw / "before").mkdir(exist_ok=True)
        lists = pl.DataFrame({"user": [f"u{len(part) - 3}"], "past": [[item for item, _ in part]]})
        lists.write_parquet(raw / f"before/{name}.parquet")
    sequences = [{"name": "h", "column": "item", "target": "item"}, {"name": "k", "column": "brand", "target": "brand"}]
    prior = {"path": "before", "lists": {"item": "past"}}
    dataset = made(
        raw,
        tables=[{"path": "items", "on": "item", "columns": ["brand"]}],
        features=[{"name": "user"}, {"name": "item"}, {"name": "brand"}],
        histories=[{"behaviour": "seen", "source": "events", "path": "seen", "prior": prior, "sequences": sequences}],
    )
    users = values_of(dataset, "user")
    lengths = dataset.train.history_lengths("seen")
    of = {users[int(user)]: int(length) for user, length in zip(dataset.train.column("user"), lengths, strict=True)}
    assert of == {"u0": 0, "u1": 4 + 9, "u2": 5, "u3": 0, "u4": 0}
    write_lines(raw / "items/z.csv", [["i8", "again"]], ["item", "brand"])
    with pytest.raises(DataError, match=r"items/[yz]\.csv, line \d, column 'item': value 'i8' appears more than once"):
        made(raw, "twice", tables=[{"path": "items", "on": "item", "columns": ["brand"]}])


def test_side_table_whose_files_hold_other_types_is_refused(raw: Path) -> None:
    write(raw / "log/a.csv", raw_lines())
    (raw / "items").mkdir()
    pl.DataFrame({"item": ["i1"], "brand": ["a"]}).write_parquet(raw / "items/1.parquet")
    pl.DataFrame({"item": ["i2"], "brand": [3]}).write_parquet(raw / "items/2.parquet")
    tables = [{"path": "items", "on": "item", "columns": ["brand"]}]
    features = [{"name": "user"}, {"name": "brand"}]
    refused(
        raw,
        r"2\.parquet: column 'brand' holds Int64 where .*1\.parquet has String",
        tables=tables,
        features=features,
    )

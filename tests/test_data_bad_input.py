"""Bad raw files and recipes: the error names file, column and row; nothing is left behind; skipping counts."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from data_helpers import HEADER, raw_lines, recipe, write_lines

from rectab.data import DataError, PreparedDataset, RecipeError, load_recipe, prepare


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def fails(raw: Path, *expected: str, **changes: object) -> None:
    """prepare raises a DataError with these texts in it, and leaves no trace."""
    out = raw.parent / "out"
    with pytest.raises(DataError) as error:
        prepare(recipe(**changes), raw, out)
    for text in expected:
        assert text in str(error.value), f"{text!r} is not in: {error.value}"
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw"]


def with_cell(row: int, column: str, value: str) -> list[list[str]]:
    rows = raw_lines()
    rows[row][HEADER.index(column)] = value
    return rows


def test_missing_file_names_it(raw: Path) -> None:
    fails(raw, "rows.csv", "no such file")


def test_missing_column_is_named_with_what_there_is(raw: Path) -> None:
    write_lines(raw / "rows.csv", [row[:-4] + row[-3:] for row in raw_lines()], [c for c in HEADER if c != "item"])
    fails(raw, "rows.csv", "no column 'item'", "feature 'item'", "click, user, time")


def test_label_that_is_not_0_or_1(raw: Path) -> None:
    write_lines(raw / "rows.csv", with_cell(4, "click", "2"))
    fails(raw, "rows.csv, line 6", "column 'click'", "0 or 1", "'2'")


@pytest.mark.parametrize(("text", "problem"), [("good", "'good'"), ("nan", "'nan'"), ("", "an empty cell")])
def test_rating_that_is_no_number(raw: Path, text: str, problem: str) -> None:
    write_lines(raw / "rows.csv", with_cell(4, "click", text))
    label = {"column": "click", "rating": True}
    fails(raw, "rows.csv, line 6", "a rating must be a finite number", problem, label=label)


def test_missing_label(raw: Path) -> None:
    write_lines(raw / "rows.csv", with_cell(4, "click", ""))
    fails(raw, "rows.csv, line 6", "column 'click'", "an empty cell")


@pytest.mark.parametrize("text", ["abc", "inf", "1,5"[:1] + "x", "1e39"])
def test_unparsable_number(raw: Path, text: str) -> None:
    write_lines(raw / "rows.csv", with_cell(9, "price", text))
    fails(raw, "rows.csv, line 11", "column 'price'", "number", repr(text))


def test_missing_time_and_group(raw: Path) -> None:
    write_lines(raw / "rows.csv", with_cell(0, "time", ""))
    fails(raw, "rows.csv, line 2", "column 'time'")
    write_lines(raw / "rows.csv", with_cell(0, "user", ""))
    fails(raw, "rows.csv, line 2", "column 'user'")


def test_bad_cell_in_parquet_names_the_row(raw: Path) -> None:
    frame = pl.DataFrame(raw_lines(), schema=HEADER, orient="row").with_columns(pl.col("click").cast(pl.Int64))
    frame.with_columns(click=pl.when(pl.int_range(40) == 7).then(5).otherwise("click")).write_parquet(
        raw / "rows.parquet"
    )
    fails(raw, "rows.parquet, row 8", "column 'click'", files=[{"path": "rows.parquet"}])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_empty_split(raw: Path, split: str) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    dates = {"valid_from": 110, "test_from": 115} | {f"{split}_from": 1000}
    fails(raw, f"no rows for '{split}'", "[split]", split={"by": "time", **dates})


def test_file_without_rows(raw: Path) -> None:
    write_lines(raw / "rows.csv", [])
    fails(raw, "rows.csv", "no rows")
    (raw / "rows.csv").write_text("")
    fails(raw, "rows.csv", "empty")


def test_column_that_is_always_empty(raw: Path) -> None:
    rows = [[*row[:2], "", *row[3:]] for row in raw_lines()]
    write_lines(raw / "rows.csv", rows)
    fails(raw, "rows.csv", "column 'item'", "empty in all 40 rows")
    write_lines(raw / "rows.csv", [[*row[:4], "", row[5]] for row in raw_lines()])
    fails(raw, "rows.csv", "column 'price'", "empty in all 40 rows")


def test_duplicate_column(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines(), ["click", "user", "item", "time", "price", "item"])
    fails(raw, "rows.csv, line 1", "column 'item'", "2 times")


def test_wrong_delimiter(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines(), separator="\t")
    fails(raw, "rows.csv", "no column", "separator")


def test_wrong_delimiter_without_header(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines(), None, separator="\t")
    fails(raw, "rows.csv, line 1", "1 fields where 6", "separator", format={"header": False, "columns": HEADER})


@pytest.mark.parametrize("change", [lambda row: [*row, "9"], lambda row: row[:-1]])
def test_line_with_another_number_of_fields(raw: Path, change: object) -> None:
    rows = raw_lines()
    rows[20] = change(rows[20])  # type: ignore[operator]
    write_lines(raw / "rows.csv", rows)
    fails(raw, "rows.csv, line 22", f"{len(rows[20])} fields where 6 are expected")


def test_truncated_gzip(raw: Path) -> None:
    whole = write_lines(raw / "rows.csv.gz", raw_lines(4000)).read_bytes()
    (raw / "rows.csv.gz").write_bytes(whole[: len(whole) // 2])
    fails(raw, "rows.csv.gz", "gzip", "line", files=[{"path": "rows.csv.gz"}])


def test_bytes_that_are_not_utf8(raw: Path) -> None:
    content = write_lines(raw / "rows.csv", raw_lines()).read_bytes().split(b"\n")
    content[12] = content[12].replace(b"u", b"\xff", 1)
    (raw / "rows.csv").write_bytes(b"\n".join(content))
    fails(raw, "rows.csv, line 13", "0xff", "UTF-8")


def test_file_that_is_not_parquet(raw: Path) -> None:
    (raw / "rows.parquet").write_bytes(b"PAR1 but not really")
    fails(raw, "rows.parquet", files=[{"path": "rows.parquet"}])


def test_other_file_than_the_published_one(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    fails(raw, "rows.csv", "SHA-256", "0" * 64, files=[{"path": "rows.csv", "sha256": "0" * 64}])


def test_side_table_key_that_is_not_unique(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    write_lines(raw / "items.csv", [["i1", "a"], ["i2", "b"], ["i1", "c"]], ["item", "brand"])
    fails(
        raw,
        "items.csv, line 2",
        "'i1'",
        "more than once",
        tables=[{"path": "items.csv", "on": "item", "columns": ["brand"]}],
    )


def test_lists_of_one_behaviour_with_different_lengths(raw: Path) -> None:
    frame = pl.DataFrame(raw_lines(), schema=HEADER, orient="row")
    lists = [["i1", "i2"]] * 40
    frame.with_columns(a=pl.Series(lists), b=pl.Series([*lists[:5], ["x"], *lists[6:]])).write_parquet(
        raw / "rows.parquet"
    )
    sequences = [{"name": "s", "column": "a", "target": "item"}, {"name": "t", "column": "b", "vocabulary": "b"}]
    histories = [{"behaviour": "seen", "source": "list", "sequences": sequences}]
    fails(raw, "rows.parquet, row 6", "column 'b'", files=[{"path": "rows.parquet"}], histories=histories)


def test_sql_that_cannot_be_read(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    fails(raw, "derived column 'x'", "SQL", derived=[{"name": "x", "sql": "SELEC +"}])
    fails(raw, "rows.csv", "no column 'nothing'", derived=[{"name": "x", "sql": "nothing + 1"}])


def spoiled(raw: Path) -> None:
    """Lines 5 (label), 9 (fields), 15 (bytes) and 20 (number) are bad; 12 is blank."""
    rows = raw_lines()
    rows[3][0] = "x"
    rows[7].append("more")
    rows[18][4] = "?"
    content = write_lines(raw / "rows.csv", rows).read_bytes().split(b"\n")
    content[14] = content[14].replace(b"u", b"\xfe", 1)
    content.insert(11, b"")
    (raw / "rows.csv").write_bytes(b"\n".join(content))


def test_skip_drops_bad_rows_counts_and_reports_them(raw: Path) -> None:
    spoiled(raw)
    dataset = prepare(recipe(), raw, raw.parent / "out", bad_rows="skip")
    dropped = dataset.summary["dropped"]
    assert dropped["rows"] == 4
    assert sum(split["rows"] for split in dataset.summary["splits"].values()) == 36
    told = "\n".join(dropped["first"])
    for line in ("line 5", "line 9", "line 16", "line 21"):  # after the blank line 12, numbers are the file's own
        assert line in told


def test_line_numbers_are_right_after_dropped_lines(raw: Path) -> None:
    spoiled(raw)
    with pytest.raises(DataError, match="line 9: 7 fields"):
        prepare(recipe(), raw, raw.parent / "out")


def test_gzip_cut_short_is_an_error_even_when_skipping(raw: Path) -> None:
    whole = gzip.compress(write_lines(raw / "rows.csv", raw_lines(4000)).read_bytes())
    (raw / "rows.csv.gz").write_bytes(whole[:-200])
    with pytest.raises(DataError, match="gzip"):
        prepare(recipe(files=[{"path": "rows.csv.gz"}]), raw, raw.parent / "out", bad_rows="skip")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "x"\nfeatrues = []', "featrues: unknown key; did you mean 'features'?"),
        (
            'name = "x"\nfeatures = [{ name = "a", mincount = 3 }]',
            "features[0].mincount: unknown key; did you mean 'min_",
        ),
        ('name = "x"\nsplit = { by = "radnom" }', "split.by: must be one of 'files', 'random'"),
        ('name = "x"\nfeatures = [{ name = "a", min_count = "x" }]', "min_count: must be a whole number, got 'x'"),
        ('name = "x"\nfeatures = [{ name = "a", min_count = 0 }]', "min_count: must be at least 1, got 0"),
        ('name = "x"\nfeatures = [{ name = "a", hashed = 3 }]', "hashed: must be true or false, got 3"),
        ('name = "x"\nlabel = "click"', "label: must be a table"),
        ('name = "x"\nfeatures = "user"', "features: must be a list"),
        ('name = "x"\nfeatures = [{ column = "a" }]', "features[0].name: is missing"),
        ('name = "x"\nhistories = [{ behaviour = "b", sequences = [] }]', "sequences: must be a list of at least 1"),
        ('name = "x"\n[label]\ncolumn = "y"\nthreshold = 3', "label.threshold: unknown key"),
        ('name = "x"\n[label]\ncolumn = "y"\nat_least = 3\nrating = true', "at_least (clicks) or rating"),
        ('name = "x"\n[synthetic]\nrows = 1000\nrow = 2', "synthetic.row: unknown key"),
        ('name = "x"', "files"),
        ("name = ", "not valid TOML"),
    ],
)
def test_recipe_errors_name_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(path) in str(error.value)
    assert expected in str(error.value)


def test_unknown_recipe_lists_the_bundled_ones() -> None:
    with pytest.raises(RecipeError, match="frappe"):
        load_recipe("frape")


def test_existing_folders_are_never_replaced_unasked(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    out = raw.parent / "out"
    prepare(recipe(), raw, out)
    with pytest.raises(DataError, match="overwrite"):
        prepare(recipe(), raw, out)
    prepare(recipe(name="again"), raw, out, overwrite=True)
    assert PreparedDataset.open(out).name == "again"
    precious = raw.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a prepared data set"):
        prepare(recipe(), raw, precious, overwrite=True)
    assert (precious / "thesis.txt").exists()


def test_failed_overwrite_keeps_the_old_one(raw: Path) -> None:
    write_lines(raw / "rows.csv", raw_lines())
    out = raw.parent / "out"
    before = prepare(recipe(), raw, out).fingerprint()
    write_lines(raw / "rows.csv", with_cell(4, "click", "2"))
    with pytest.raises(DataError, match="line 6"):
        prepare(recipe(), raw, out, overwrite=True)
    assert PreparedDataset.open(out).fingerprint() == before

"""Delimited text: the grammar is that of Python's csv, line numbers are the file's own, and no value is ever cut."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from data_helpers import HEADER, prepared, raw_lines, recipe, values_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.data import DataError, RecipeError, prepare, raw_bytes
from rectab.data.recipe_files import Format
from rectab.data.text import open_text

Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rows]:
    folder = tmp_path_factory.mktemp("text")

    def read_text(text: str, columns: int, block: int, skip_bad: bool = False, **form: object) -> Rows:
        """(values, line) of every row, read in blocks of so many bytes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(raw_bytes, "_BLOCK_BYTES", block)
            path = folder / "a.csv"
            path.write_bytes(text.encode())
            names = [f"c{i}" for i in range(columns)]
            how = Format.model_validate({"header": False, "columns": names, "quote": '"', **form})
            frame = open_text(path, how, folder, skip_bad, "line").frame.select(*names, "line").collect()
            return [tuple(value or None for value in row) for row in frame.rows()]

    return read_text


def none_for_empty(values: list[str]) -> list[str | None]:
    return [value or None for value in values]


CHARACTERS = st.sampled_from(
    ["a", "é", "漢", " ", ",", '"', "\n", "\r", "\r\n", "\x1f", "\x1e", ";", "::", "\x00", "'"]
)
VALUES = st.lists(CHARACTERS, max_size=6).map("".join)
BLOCKS = st.integers(1, 40)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=5),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(",;\t\x1f\x01|"),
    BLOCKS,
)
def test_what_csv_writes_is_read_back(
    read: Callable[..., Rows], rows: list[list[str]], quoting: int, end: str, separator: str, block: int
) -> None:
    if quoting == csv.QUOTE_MINIMAL:  # csv does not quote a lone carriage return before Python 3.13
        rows = [[value.replace("\r", "r") for value in row] for row in rows]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    line, expected = 1, []
    for row in rows:
        expected.append((*none_for_empty(row), line))
        line += 1 + sum(value.count("\n") for value in row)
    assert read(file.getvalue(), 3, block, separator=separator) == expected


TOKENS = st.sampled_from(["a", "é", ",", ",", '"', '"', "\n", "\n", "\r\n", " ", "\x1f"])


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKENS, max_size=30).map("".join), st.sampled_from([",", "::", "¦"]), BLOCKS)
def test_any_text_is_read_as_csv_reads_it_or_refused(
    read: Callable[..., Rows], text: str, separator: str, block: int
) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, expected = 1, []
    try:
        for row in reader:
            if len(row) == 2:
                shown = [value.replace(",", separator) for value in row]
                expected.append((*none_for_empty(shown), line))
            line = reader.line_num + 1
    except csv.Error:  # text after a closing quote, or a quote that is never closed
        with pytest.raises(DataError, match=r"line \d+"):
            read(text.replace(",", separator), 2, block, separator=separator)
        return
    assert read(text.replace(",", separator), 2, block, separator=separator, skip_bad=True) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS.filter(lambda t: t != '"'), max_size=30).map("".join), BLOCKS)
def test_without_a_quote_lines_are_split_at_every_separator(read: Callable[..., Rows], text: str, block: int) -> None:
    expected = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.count(",") == 1:
            expected.append((*none_for_empty(line.split(",")), number))
    assert read(text, 2, block, quote=None, skip_bad=True) == expected


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_quoted_field_may_have_any_length_and_any_number_of_lines(read: Callable[..., Rows], size: int) -> None:
    value = 'x"y\n,é' * size
    text = f'1,"{value.replace(chr(34), chr(34) * 2)}"\n0,b\n'
    assert read(text, 2, 1 << 16) == [("1", value, 1), ("0", "b", 2 + size)]


def test_quote_that_is_never_closed_is_named_by_the_line_where_it_opens(read: Callable[..., Rows]) -> None:
    text = "1,a\n" * 6 + '0,"b\n' + "1,c\n" * 50
    for skip_bad in (False, True):  # skipping would lose all that follows
        with pytest.raises(DataError, match=r"a\.csv, line 7: the quote that opens here is never closed"):
            read(text, 2, 16, skip_bad=skip_bad)


def test_skipping_leaves_whole_records_out(read: Callable[..., Rows]) -> None:
    text = '1,"a\nb",x\n0,"c\nd"\n1,"e" f\n0,g\n\n1,"h\ni\n\nj"\n1\n0,"k""k"\n'
    assert read(text, 2, 5, skip_bad=True) == [("0", "c\nd", 3), ("0", "g", 6), ("1", "h\ni\n\nj", 8), ("0", 'k"k', 13)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('1,a\n1,"b\nc",d\n', r"line 2: 3 fields where 2 are expected \(it goes on to line 3\)"),
        ('1,a\n1,"b\nc"d\n', "line 2: text after the closing quote of a field that opens in line 2"),
        ('1,"a\nb"\n1\n', "line 3: 1 fields .*is ',' the right separator"),
    ],
)
def test_problems_are_named_by_line(read: Callable[..., Rows], text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(text, 2, 7)


def test_fields_in_quotes_get_a_hint_where_no_quote_is_set(read: Callable[..., Rows]) -> None:
    with pytest.raises(DataError, match=r"3 fields where 2 are expected; it has quotes: say quote"):
        read('1,"a,b"\n', 2, 64, quote=None)


def test_values_that_hold_control_characters_keep_them(read: Callable[..., Rows]) -> None:
    all_of_them = "".join(chr(code) for code in range(1, 32) if code not in (10, 13))
    rows = [("1", f'a\n{chr(code)}"', 2 * i + 1) for i, code in enumerate(ord(c) for c in all_of_them[:20])]
    text = "".join(f'{a},"{b.replace(chr(34), chr(34) * 2)}"\n' for a, b, _ in rows)
    assert read(text, 2, 30) == rows
    with pytest.raises(DataError, match="every control character"):
        read(f'1,"\n{all_of_them}"\n', 2, 30)


def test_last_column_may_take_the_rest_of_its_line(read: Callable[..., Rows]) -> None:
    text = '1 u1 i1 i2 i3\n0 u2 i4\n0 u3\r\n1 "u 4" "x" i5\r\n'
    rows = [("1", "u1", "i1 i2 i3", 1), ("0", "u2", "i4", 2), ("1", "u 4", '"x" i5', 4)]
    assert read(text, 3, 9, skip_bad=True, separator=" ", ragged=True) == rows
    with pytest.raises(DataError, match="line 3: 2 fields where 3"):
        read(text, 3, 9, separator=" ", ragged=True)


def pack(content: bytes, ending: str) -> bytes:
    return {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[ending](content)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_packing_byte_order_marks_and_line_ends_do_not_change_a_data_set(
    tmp_path: Path, ending: str, mark: bytes, newline: str
) -> None:
    expected = prepared(tmp_path, name="expected")
    content = (tmp_path / "raw/rows.csv").read_text().rstrip("\n").replace("\n", newline)
    (tmp_path / "raw/rows.csv").unlink()
    (tmp_path / f"raw/rows.csv{ending}").write_bytes(pack(mark + content.encode(), ending))
    dataset = prepare(recipe(), tmp_path / "raw", tmp_path / "out")
    for split in ("train", "valid", "test"):
        ours, theirs = getattr(dataset, split).batch(slice(None)), getattr(expected, split).batch(slice(None))
        assert ours.ids.equal(theirs.ids)
        assert ours.dense.equal(theirs.dense)
        assert ours.labels.equal(theirs.labels)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_packed_file_that_ends_early_is_refused(tmp_path: Path, ending: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    whole = pack(write_lines(raw / "rows.csv", raw_lines(4000)).read_bytes(), ending)
    (raw / "rows.csv").unlink()
    (raw / f"rows.csv{ending}").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=rf"rows\.csv\{ending}: damaged {ending[1:]} after line \d+"):
        prepare(recipe(), raw, tmp_path / "out", bad_rows="skip")


def test_two_packed_files_of_one_name_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path)
    content = (tmp_path / "raw/rows.csv").read_bytes()
    (tmp_path / "raw/rows.csv").unlink()
    for ending in (".gz", ".zst"):
        (tmp_path / f"raw/rows.csv{ending}").write_bytes(pack(content, ending))
    with pytest.raises(DataError, match=r"rows\.csv: both rows\.csv\.gz and rows\.csv\.zst are there"):
        prepare(recipe(), tmp_path / "raw", tmp_path / "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("click,user\n1,a\n".encode("utf-16"), "UTF-16"),
        ("click,user\n1,a\n".encode("utf-16-be"), "UTF-16"),
        ("click,user\n1,a\n".encode("utf-32"), "UTF-16 .or UTF-32"),
        (gzip.compress(b"click,user\n", mtime=0), "packed by gzip"),
        (zstd.compress(b"click,user\n"), "packed by zstd"),
        (b"PK\x03\x04....", "zip"),
        (b"PAR1....", "parquet"),
        (b"", "empty"),
        (b"\n\r\n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b'"click,user\n1,a\n', "line 1: the quote that opens here is never closed"),
        (b'"click"x,user\n1,a\n', "line 1: the header: text after the closing quote"),
        (b"cl\xffick,user\n1,a\n", "line 1: the header: byte 3 of the line .0xff. is not UTF-8"),
        (",".join(HEADER).encode(), "no rows"),
    ],
)
def test_files_that_are_no_such_text_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"rows\.csv.*{message}"):
        prepare(recipe(format={"quote": '"'}), tmp_path, tmp_path / "out")


def test_header_may_be_quoted_and_follow_blank_lines(tmp_path: Path) -> None:
    lines = ["", ",".join(f'"{name}\n"' for name in HEADER), *(",".join(row) for row in raw_lines())]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    dataset = prepare(recipe(format={"quote": '"'}), tmp_path, tmp_path / "out")
    assert len(dataset.train) == 24
    assert "u0" in values_of(dataset, "user").values()


def test_line_of_a_bad_cell_counts_the_lines_within_values(tmp_path: Path) -> None:
    rows = raw_lines()
    rows[3][1] = '"u\n\n1"'
    rows[30][0] = "7"
    write_lines(tmp_path / "rows.csv", rows)
    with pytest.raises(DataError, match=r"rows\.csv, line 34, column 'click'"):
        prepare(recipe(format={"quote": '"'}), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"quote": "''"}, "one ASCII character"),
        ({"quote": ""}, "one ASCII character"),
        ({"quote": "“"}, "one ASCII character"),
        ({"quote": "\n"}, "one ASCII character"),
        ({"quote": ",", "separator": ","}, "part of the separator"),
        ({"separator": ""}, "must not be empty"),
        ({"separator": "a\n"}, "line end"),
        ({"columns": ["a", "b"]}, "header = false"),
        ({"columns": ["a", "a"], "header": False}, "repeated: .'a'"),
    ],
)
def test_formats_that_cannot_be_are_errors_of_the_recipe(tmp_path: Path, form: dict[str, object], message: str) -> None:
    from rectab.data import load_recipe

    text = ", ".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else value!r}" for key, value in form.items()
    )
    (tmp_path / "r.toml").write_text(
        f"name = 'x'\nformat = {{ {text} }}\n".replace("'\\n'", '"\\n"').replace("'a\\n'", '"a\\n"')
    )
    with pytest.raises(RecipeError, match=f"format.*{message}"):
        load_recipe(tmp_path / "r.toml")

"""The compact map from raw values to ids: the ids of the data set for every kind of value, and bytes as counted."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from data_helpers import prepared, recipe, values_of
from hypothesis import given
from hypothesis import strategies as st

from rectab import id_bytes
from rectab.data import DataError, PreparedDataset, prepare, without_features
from rectab.data.id_map import IdMap, VocabularyMap
from rectab.data.ids import canonical_ids
from rectab.data.values import RawValues
from rectab.id_bytes import key_bits, map_bytes
from rectab.tables.files import write_file
from rectab.training.ids_file import IDS_FILE, load_ids, save_ids, write_ids

KINDS: dict[str, Any] = {
    "int8": pl.Series([7, -3, 0, 9], dtype=pl.Int8),
    "uint64": pl.Series([7, 2**63 + 5, 0, 9], dtype=pl.UInt64),
    "int64 with nulls": pl.Series([7, None, -(2**62), 9]),
    "float64": pl.Series([7.0, 0.1, float("nan"), -0.0]),
    "float32": pl.Series([7.0, 0.1, 1e-7, 2.5], dtype=pl.Float32),
    "decimal": pl.Series(["7.00", "1.50", "0.01", None]).cast(pl.Decimal(10, 2)),
    "boolean": pl.Series([True, False, None, True]),
    "text": pl.Series(["7", "a b", "é漢", "007"]),
    "odd text": pl.Series([" 7.0 ", "", "nan", "TRUE"]),
    "dictionary": pl.Series(["7", "x", None, "y"]).cast(pl.Categorical),
    "bytes": pl.Series([b"7", b"\xff\x00", b"", b"z"]),
    "date": pl.Series([dt.date(2024, 1, 5), None, dt.date(1969, 1, 1), dt.date(2030, 2, 3)]),
    "moment": pl.Series([dt.datetime(2024, 1, 5, 6), dt.datetime(2024, 1, 5), None, dt.datetime(2001, 1, 1, 0, 0, 1)]),
    "time of day": pl.Series([dt.time(6, 0, 0, 500000), dt.time(0), None, dt.time(23, 59)]),
}


def dataset_of(cells: pl.Series, tmp_path: Path) -> tuple[PreparedDataset, pl.Series]:
    """A data set whose column ``item`` has these cells over and over, the last ones in validation and test only."""
    column = pl.concat([cells.gather([i % (len(cells) - 1) for i in range(18)]), cells, cells]).alias("item")
    frame = pl.DataFrame({"click": [i % 2 for i in range(len(column))], "item": column})
    (tmp_path / "raw").mkdir()
    frame.write_parquet(tmp_path / "raw" / "a.parquet")
    changes = {"group": None, "time": None, "files": [{"path": "a.parquet"}], "features": [{"name": "item"}]}
    split = {"by": "row_order", "valid": len(cells), "test": len(cells)}
    return prepare(recipe(**changes, split=split), tmp_path / "raw", tmp_path / "out"), column


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_has_the_id_that_the_data_set_gives_it(kind: str, tmp_path: Path) -> None:
    dataset, column = dataset_of(KINDS[kind], tmp_path)
    made = IdMap.build(dataset)
    assert made is not None
    expected = np.concatenate([split.column("item") for split in (dataset.train, dataset.valid, dataset.test)])
    assert made.vocabularies["item"].ids_of(column).tolist() == expected.tolist()
    assert made.vocabularies["item"].ids_of(column.head(0)).shape == (0,)


def test_seven_is_seven_in_every_type_and_null_values_are_missing(tmp_path: Path) -> None:
    dataset, _ = dataset_of(pl.Series(["7", None, "8", "9"]), tmp_path)
    items = IdMap.build(dataset).vocabularies["item"]  # type: ignore[union-attr]
    seven, missing = (next(i for i, v in values_of(dataset, "item").items() if v == value) for value in ("7", None))
    for same in (pl.Series([7]), pl.Series([7.0]), pl.Series([" 7"]), pl.Series(["7.0"]), pl.Series([b"7"])):
        assert items.ids_of(same).tolist() == [seven]
    assert items.ids_of(pl.Series(["NA", "7"]), null_values=["NA"]).tolist() == [missing, seven]
    assert items.ids_of(pl.Series(["NA", "007"])).tolist() == [0, 0]
    with pytest.raises(DataError, match=r"values of 'item', row 1: a float of 2\^53"):
        items.ids_of(pl.Series([7.0, 2.0**53]))
    with pytest.raises(TypeError, match="lists"):
        items.ids_of(pl.Series([["7"]]))


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), unique=True, min_size=1, max_size=60), st.data())
def test_known_values_are_exact_and_omitted_ones_are_rare(texts: list[str | None], data: st.DataObject) -> None:
    values = canonical_ids(pl.Series(texts, dtype=pl.String)).unique(maintain_order=True)
    border = data.draw(st.integers(1, len(values)))
    omitted = [(border, len(values) + 1)] if data.draw(st.booleans()) else []
    held = VocabularyMap.build("v", values, omitted)
    ids = np.arange(1, len(values) + 1)
    for first, last in omitted:
        ids[first - 1 : last - 1] = 0
    assert held.ids_of(values).tolist() == ids.tolist()
    assert len(held) == np.count_nonzero(ids)
    assert held.packed.nbytes == (len(held) * held.bits + 7) // 8


@pytest.mark.parametrize("omitted", [(), ((2, 5), (900, 1001)), ((1, 1001),)])
def test_values_whose_keys_are_equal_get_another_salt(monkeypatch: pytest.MonkeyPatch, omitted: Any) -> None:
    monkeypatch.setattr(id_bytes, "FALSE_BITS", 0)
    salts = []
    for start in range(0, 20_000, 1000):
        values = pl.Series([str(i) for i in range(start, start + 1000)])
        held = VocabularyMap.build("v", values, omitted)
        expected = np.arange(1, 1001)
        for first, last in omitted:
            expected[first - 1 : last - 1] = 0
        assert held.ids_of(values).tolist() == expected.tolist()
        salts.append(held.salt)
    assert omitted == ((1, 1001),) or max(salts) > 0, "collisions did occur"


def test_new_values_read_id_0_but_for_the_stated_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_bytes, "FALSE_BITS", 6)
    held = VocabularyMap.build("v", pl.Series([f"v{i}" for i in range(40)]))
    assert 2**-7 < held.false_positive_rate <= 2**-6
    found = held.ids_of(pl.Series([f"new{i}" for i in range(100_000)]))
    assert np.mean(found > 0) == pytest.approx(held.false_positive_rate, rel=0.15)
    monkeypatch.undo()
    held = VocabularyMap.build("v", pl.Series([f"v{i}" for i in range(40)]))
    assert held.false_positive_rate <= 2**-16
    assert held.ids_of(pl.Series([f"new{i}" for i in range(5000)])).sum() == 0


def test_keys_grow_with_the_vocabulary_and_with_what_it_omits() -> None:
    assert [key_bits(n) for n in (0, 1, 2, 3, 1000, 2**17, 10**7)] == [0, 16, 17, 18, 26, 33, 46]
    assert key_bits(1000, 10**6) > key_bits(1000, 10**5) > key_bits(1000)
    for total in (10, 5000, 10**6):
        sizes = [kept * key_bits(kept, total - kept) for kept in range(0, total + 1, max(total // 50, 1))]
        assert sizes == sorted(sizes), "omitting never costs bytes"


def test_two_equal_values_are_refused() -> None:
    with pytest.raises(DataError, match="a value occurs twice"):
        VocabularyMap.build("v", pl.Series(["a", "b", "a"]))


def test_the_file_holds_the_bytes_that_were_counted(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    write_ids(dataset, tmp_path)
    made, path = IdMap.build(dataset), tmp_path / IDS_FILE
    assert made is not None
    assert made.bytes == map_bytes(dataset.schema)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + header + made.bytes
    read = load_ids(path)
    assert {name: (v.omitted, v.salt, v.packed.tolist()) for name, v in read.vocabularies.items()} == {
        name: (v.omitted, v.salt, v.packed.tolist()) for name, v in made.vocabularies.items()
    }
    smaller = IdMap.build(dataset, {"user": [(2, 4)]})
    assert smaller is not None
    assert len(smaller) == len(made) - 2
    save_ids(smaller, path)
    users = pl.Series(list(values_of(dataset, "user").values()))
    assert load_ids(path).vocabularies["user"].ids_of(users).tolist() == [1, 0, 0, *range(4, len(users) + 1)]


def test_hashed_vocabularies_have_no_map(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, features=[{"name": "user"}, {"name": "item", "hashed": True}])
    made = IdMap.build(dataset)
    assert made is not None
    assert list(made.vocabularies) == ["user"]
    assert map_bytes(dataset.schema) == made.bytes


def test_buckets_of_a_context_have_no_map(tmp_path: Path) -> None:
    sequences = [{"name": "h", "column": "item", "target": "item"}]
    history = {
        "behaviour": "seen",
        "sequences": sequences,
        "context": [{"name": "gap", "of": "time_gap", "edges": [5.0, 50.0]}],
    }
    dataset = prepared(tmp_path, histories=[history])
    assert "gap" in [v.name for v in dataset.schema.vocabularies]
    assert list(IdMap.build(dataset).vocabularies) == ["user", "item"]  # type: ignore[union-attr]


def test_features_that_are_left_out_need_no_map(tmp_path: Path) -> None:
    whole = prepared(tmp_path)
    part = without_features(whole, ["user"])
    made, all_of_it = IdMap.build(part), IdMap.build(whole)
    assert made is not None
    assert all_of_it is not None
    assert list(made.vocabularies) == ["item"]
    items = pl.Series(list(values_of(whole, "item").values()))
    assert made.vocabularies["item"].ids_of(items).tolist() == all_of_it.vocabularies["item"].ids_of(items).tolist()
    assert RawValues(part).of("item", [1, 2]) == RawValues(whole).of("item", [1, 2])
    assert map_bytes(part.schema) == made.bytes < all_of_it.bytes


def forged(path: Path, **changes: Any) -> None:
    keys = torch.zeros((3 * key_bits(3) + 7) // 8, dtype=torch.uint8)
    salts, omitted = torch.zeros(1, dtype=torch.uint8), torch.zeros((0, 3), dtype=torch.int32)
    tensors = {"salts": salts, "omitted": omitted, "keys": keys}
    sizes = changes.pop("sizes", [{"name": "v", "num_embeddings": 4}])
    write_file(path, "ids", 1, {"vocabularies": sizes}, {**tensors, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [{"name": "v", "num_embeddings": 5}]},
        {"sizes": [{"name": "v", "num_embeddings": 0}]},
        {"sizes": [{"name": "v"}]},
        {"sizes": 3},
        {"salts": torch.zeros(2, dtype=torch.uint8)},
        {"keys": torch.zeros(1, dtype=torch.uint8)},
        {"keys": torch.zeros((7, 1), dtype=torch.uint8)},
        {"omitted": torch.tensor([[0, 3, 2]], dtype=torch.int32)},
        {"omitted": torch.tensor([[0, 0, 2]], dtype=torch.int32)},
        {"omitted": torch.tensor([[0, 2, 9]], dtype=torch.int32)},
        {"omitted": torch.tensor([[1, 2, 3]], dtype=torch.int32)},
        {"omitted": torch.tensor([[0, 2]], dtype=torch.int32)},
        {"omitted": torch.zeros((0, 3))},
        {"keys": torch.zeros((3 * key_bits(3) + 7) // 8)},
    ],
)
def test_forged_files_are_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / IDS_FILE
    forged(path)
    assert len(load_ids(path)) == 3
    forged(path, **changes)
    with pytest.raises(ValueError, match=r"ids\.safetensors"):
        load_ids(path)


def test_a_damaged_byte_is_noticed(tmp_path: Path) -> None:
    forged(tmp_path / IDS_FILE)
    content = bytearray((tmp_path / IDS_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / IDS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        load_ids(tmp_path / IDS_FILE)
    with pytest.raises(FileNotFoundError):
        load_ids(tmp_path / "none")

"""Saved tables and models: damaged, truncated, foreign and future files are refused, each with its own line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rectab.ops import FloatFormat, RowFormat, formats
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableMethod, TableOptions, load_table, methods, plan, save_table
from rectab.tables.files import checksum, read_file, write_file

METHODS = [pytest.param(m, id=m.name) for m in methods()]


def saved(method: TableMethod, vocabularies: list[Vocabulary], path: Path) -> EmbeddingTable:
    table = plan(method.name, vocabularies, 8, None if method.fills == "one" else "25%").build().serving().eval()
    save_table(table, path)
    return table


def rewrite(path: Path, **changes: object) -> None:
    """The same tensors under a description in which ``changes`` are made (None takes it away), checksum and all."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        description = {**json.loads(file.metadata()["rectab_table"]), **changes}
    kept = {key: value for key, value in description.items() if value is not None and key != "checksum"}
    if "checksum" not in changes:
        kept["checksum"] = checksum(kept, tensors)
    save_file(tensors, path, metadata={"rectab_table": json.dumps(kept)})


@pytest.mark.parametrize("method", METHODS)
def test_a_file_cut_anywhere_is_refused(method: TableMethod, vocabularies: list[Vocabulary], tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    saved(method, vocabularies, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 4, 8, header // 2, header, (header + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"table\.safetensors: not a whole safetensors file"):
            load_table(path)


@pytest.mark.parametrize("method", METHODS)
def test_any_flipped_bit_is_refused(method: TableMethod, vocabularies: list[Vocabulary], tmp_path: Path) -> None:
    """In a tensor safetensors does not see it: a weight would silently be another number."""
    path = tmp_path / "table.safetensors"
    saved(method, vocabularies, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    body = [header, (header + len(whole)) // 2, len(whole) - 1]
    for position in body:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match="does not match its checksum"):
            load_table(path)
    for step, position in enumerate(range(0, header, max(header // 80, 1))):
        flipped = whole[:position] + bytes([whole[position] ^ (1 << step % 8)]) + whole[position + 1 :]
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"table\.safetensors: "):
            load_table(path)
    path.write_bytes(whole)
    assert load_table(path).method


@pytest.mark.parametrize("content", [b"", b"user,item,label\n1,2,0\n" * 50, b"PK\x03\x04" + bytes(100), bytes(64)])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_table(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "table.pt"
    torch.save({"weight": torch.zeros(2, 2), "trap": Trap()}, path)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_table(path)
    assert not (tmp_path / "ran").exists()


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not a rectab table"):
        load_table(path)
    write_file(path, "model", 1, {}, {"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="not a rectab table"):
        load_table(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_table(tmp_path)


def test_descriptions_that_cannot_be_built_are_refused(vocabularies: list[Vocabulary], tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    table = plan("hashed", vocabularies, 8, "25%").build()
    for changes, message in (
        ({"format_version": 99}, "format version 99, this rectab reads"),
        ({"format_version": None}, "format version None"),
        ({"checksum": None}, "does not match its checksum"),
        ({"method": "from_the_future"}, "no table method 'from_the_future'"),
        ({"config": None}, "cannot build what its metadata describes: 'config' is missing"),
        ({"config": {"no_such_field": 1}}, "no_such_field"),
        ({"embedding_dim": 4}, "tensors do not fit"),
        ({"unseen": "drop"}, "unseen must be one of"),
    ):
        save_table(table, path)
        rewrite(path, **changes)
        with pytest.raises(ValueError, match=message):
            load_table(path)
    for text in ("{", "[]"):
        save_file({"weight": torch.zeros(2)}, path, metadata={"rectab_table": text})
        with pytest.raises(ValueError, match="metadata is"):
            load_table(path)


def test_checksum_covers_names_shapes_types_and_bytes(tmp_path: Path) -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(True), "empty": torch.zeros(0, 3)}
    note = {"note": 1}
    others = [
        {**base, "a": torch.arange(6.0).reshape(2, 3)},
        {**base, "a": torch.arange(6)},
        {**base, "b": torch.tensor(False)},
        {"c" if key == "a" else key: tensor for key, tensor in base.items()},
    ]
    assert len({checksum(note, tensors) for tensors in [base, *others]} | {checksum({}, base)}) == 6
    assert checksum(note, dict(reversed(base.items()))) == checksum(note, base)
    half = {"rows": torch.randn(5, 4).bfloat16(), "step": torch.tensor(3)}
    write_file(tmp_path / "f", "table", 1, {"note": "x"}, half)
    description, tensors = read_file(tmp_path / "f", "table", 1)
    assert description["note"] == "x"
    assert all(torch.equal(tensors[key], half[key]) for key in half)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("row_format", [pytest.param(f, id=f.name) for f in formats()])
@pytest.mark.parametrize("method", METHODS)
def test_rows_load_as_they_were_saved(
    method: TableMethod, row_format: RowFormat, vocabularies: list[Vocabulary], tmp_path: Path
) -> None:
    """At their bytes and to the bit, whatever the method calls its stores, and after ``table.to(dtype)`` as well."""
    path = tmp_path / "table.safetensors"
    budget = None if method.fills == "one" else "40%"
    try:
        method.check_rows(row_format.name)
    except ValueError:
        return  # it says by name that it cannot be held so
    options = TableOptions(rows=row_format.name)
    tables = [plan(method.name, vocabularies, 8, budget, options=options).build().serving().eval()]
    if isinstance(row_format, FloatFormat):
        tables.append(plan(method.name, vocabularies, 8, budget).build().serving().eval().to(row_format.dtype))
    for table in tables:
        save_table(table, path)
        loaded = load_table(path)
        assert loaded.ledger().by_kind() == table.ledger().by_kind()
        held = table.state_dict()
        assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == {n: held[n].dtype for n in held}
        assert all(torch.equal(tensor, held[name]) for name, tensor in loaded.state_dict().items())

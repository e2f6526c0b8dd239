"""Sharded checkpoints: what is damaged, unfinished or of another model is refused. One process; more in tests/hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forging import changed
from hypothesis import given, settings

from rectab.swap.torchrec_checkpoint import load_sharded, save_sharded
from rectab.tables.files import checksum

FILE = "rank-00000-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A finished checkpoint of ``state()``, at step 7."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        save_sharded(tmp_path / "checkpoint", state(), step=7)
        yield tmp_path / "checkpoint"
    finally:
        dist.destroy_process_group()


def state(fill: float | None = None) -> dict:
    rows = torch.arange(40.0).reshape(10, 4)
    found = {"model": {"rows.weight": rows, "bias": torch.ones(3)}, "rows": [torch.tensor(5), torch.zeros(10).double()]}
    if fill is not None:
        for tensor in (*found["model"].values(), *found["rows"]):
            tensor.fill_(fill)
    return found


def test_comes_back_as_it_was(folder: Path) -> None:
    other = state(fill=-1)
    assert load_sharded(folder, other) == 7
    for key, tensor in state()["model"].items():
        assert torch.equal(other["model"][key], tensor)
    assert [int(other["rows"][0]), other["rows"][1].dtype] == [5, torch.float64]
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", FILE]


def test_damaged_parts_are_refused(folder: Path) -> None:
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"does not match its checksum"):
        load_sharded(folder, state())
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or missing"):
        load_sharded(folder, state())
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match="damaged or missing"):
        load_sharded(folder, state())


def forge_index(folder: Path, index: Any) -> None:
    """Write an index whose checksum is right."""
    kept = {key: value for key, value in index.items() if key != "checksum"}
    (folder / "index.json").write_text(json.dumps({**kept, "checksum": checksum(kept, {})}))


def test_damaged_and_missing_indexes_are_refused(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99, this rectab reads"):
        load_sharded(folder, state())
    for text in (json.dumps(index)[:-20], "[]", "{}", "[" * 100_000, json.dumps({**index, "step": 8}), "\xff"):
        (folder / "index.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"index\.json: damaged"):
            load_sharded(folder, state())
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        load_sharded(folder, state())


def test_checkpoints_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"another model: it lacks \['model/new'\]"):
        load_sharded(folder, {**state(), "model": {**state()["model"], "new": torch.ones(1)}})
    wider = state()
    wider["model"]["rows.weight"] = torch.zeros(10, 8)
    with pytest.raises(ValueError, match=r"\[10, 4\] there and \[10, 8\] here"):
        load_sharded(folder, wider)
    index = json.loads((folder / "index.json").read_text())
    index["parts"] = [{**part, "shape": [20, 4]} if part["shape"] == [10, 4] else part for part in index["parts"]]
    forge_index(folder, index)
    taller = state()
    taller["model"]["rows.weight"] = torch.zeros(20, 4)
    with pytest.raises(ValueError, match="is not complete: 40 of 80"):
        load_sharded(folder, taller)
    with pytest.raises(TypeError, match="rate is a float"):
        save_sharded(folder, {"rate": 0.1})


def test_forged_indexes_fill_rightly_or_are_refused_by_name(folder: Path) -> None:
    """Entries lost, of another kind, outside of their tensor, doubled, or in a file elsewhere."""
    index = json.loads((folder / "index.json").read_text())
    del index["checksum"]

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(changed(index))
    def fuzz(other: Any) -> None:
        forge_index(folder, other)
        here, told = state(fill=-1), str(folder)
        try:
            load_sharded(folder, here)
        except ValueError as error:
            here, told = state(), str(error)
        assert told.startswith(str(folder))
        assert torch.equal(here["model"]["rows.weight"], state()["model"]["rows.weight"])

    fuzz()


def test_parts_that_overlap_do_not_hide_a_hole(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    part = next(part for part in index["parts"] if part["shape"] == [10, 4])
    index["parts"].remove(part)
    index["parts"] += [{**part, "size": [5, 4]}, {**part, "size": [5, 4]}]
    forge_index(folder, index)
    with pytest.raises(ValueError, match="contradict each other"):
        load_sharded(folder, state())

"""A run as a host's tables and a graph of all else: the pair scores as the model does, whatever is looked up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture
from test_predict import folder, trained  # noqa: F401 - a fixture
from training_helpers import tiny_dataset

from rectab.models import CTRModel, ModelConfig
from rectab.ops.fused import fuse
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, plan
from rectab.training.exporting.given import DensePart
from rectab.training.exporting.host_tables import host_tables, precision_of


@pytest.mark.parametrize(("tower", "options"), [("none", {}), ("mean", {"max_history": 3}), ("din", {"hidden": [4]})])
@torch.no_grad()
def test_the_dense_part_takes_vectors_in_place_of_ids(tower: str, options: dict) -> None:
    dataset = tiny_dataset(120)
    table = plan("unified", dataset.schema.vocabularies, 4, "60%").build().serving()
    model = CTRModel(dataset.schema, table, ModelConfig.from_options("deepfm", tower, {"hidden": [4]}, options)).eval()
    tables = {held.vocabulary.name: held for held in host_tables(table, "fp32")}
    dense = DensePart(model).eval()
    assert not [name for name in dense.state_dict() if "store" in name or "table" in name]
    for rows in (slice(0, 1), slice(0, 40)):
        batch = dataset.valid.batch(rows)
        vectors = table(batch.ids, model.field_vocabularies)
        sequences = {
            f.name: tables[f.vocabulary].vectors(batch.histories[f.name].values)
            for features in dataset.schema.behaviours.values()
            for f in features
            if f.name in dense.names
        }
        found = dense(*dense.flat(batch, vectors, sequences))
        torch.testing.assert_close(found, torch.sigmoid(model(batch)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "int2"])
@pytest.mark.parametrize("method", ["full", "hashed"])
def test_rows_are_those_of_the_layouts(method: str, precision: str) -> None:
    vocabularies = [Vocabulary("a", 300), Vocabulary("b", 70_000)]
    table = plan(method, vocabularies, 8, None if method == "full" else "30%").build().serving()
    for index, held in enumerate(host_tables(table, precision)):
        ids = torch.tensor([0, 5, held.vocabulary.num_embeddings - 1])
        expected = table(ids, torch.tensor(index))
        worst = {"fp32": 0, "fp16": 1e-3, "int8": 0.01, "int4": 0.1, "int2": 0.5}[precision]
        size = expected.abs().max()
        assert (held.vectors(ids) - expected).abs().max() <= worst * size
        assert held.error <= worst
        if precision in ("int8", "int4", "int2"):
            bits = int(precision[3:])
            fused, state = fuse(expected, bits), held.torchrec()
            assert torch.equal(torch.cat(list(held.fbgemm().values()), 1)[ids], fused)
            assert torch.equal(state["weight"][ids], fused[:, :-4])
            assert torch.equal(
                torch.cat([state["weight_qscale"], state["weight_qbias"]], 1)[ids].view(torch.uint8), fused[:, -4:]
            )


def test_what_no_rows_hold_is_refused_by_name() -> None:
    any_value = plan("hashed", [Vocabulary("user", 50, hashed=True), Vocabulary("item", 20)], 8, "90%").build()
    with pytest.raises(ValueError, match=r"user: ids are hashes of any value.*--to onnx"):
        host_tables(any_value.serving(), "fp32")
    odd = plan("full", [Vocabulary("a", 20)], 6).build()
    with pytest.raises(ValueError, match="int2 needs an embedding_dim that 4 divides; it is 6"):
        host_tables(odd, "int2")
    assert precision_of(odd) == "fp32"


@pytest.mark.parametrize(("rows", "precision"), [("fused4", "int4"), ("fused2", "int2"), ("fused8", "int8")])
def test_rows_in_a_layout_of_hosts_are_exported_in_it(rows: str, precision: str) -> None:
    """Of halves nothing is lost; of the fp32 numbers of fused8 what halves lose."""
    table = plan("full", [Vocabulary("a", 50)], 8, options=TableOptions(rows=rows)).build()
    assert precision_of(table) == precision
    (held,) = host_tables(table.serving(), precision_of(table))
    assert held.error < (1e-2 if rows == "fused8" else 1e-7)


@pytest.mark.parametrize("host", ["torchrec", "fbgemm"])
def test_the_command_writes_the_pair_and_says_what_it_adds(
    rectab: CommandLine,  # noqa: F811
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
) -> None:
    trained(rectab, folder, "unified")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    out = tmp_path / "pair"
    told = rectab.json("export", folder / "unified", "--to", host, "--out", out, "--precision", "int8")
    assert told["rows"] == 100
    assert 0 < told["difference"] < 0.05
    assert 0 < told["error"] < 0.01
    sidecar = json.loads((out / "export.json").read_text())
    assert [entry["name"] for entry in sidecar["inputs"]] == ["vectors", "dense", "clicked_lengths", "seen"]
    assert [entry["name"] for entry in sidecar["tables"]] == ["user", "item"]
    assert sidecar["host"] == host
    tables = torch.load(out / "tables.pt") if host == "torchrec" else load_file(out / "tables.safetensors")
    held = sum(t.numel() * t.element_size() for t in tables.values())
    assert held == told["host_bytes"] == sum(entry["bytes"] for entry in sidecar["tables"])
    exact = rectab.json("export", folder / "unified", "--to", host, "--out", tmp_path / "exact")
    assert exact["precision"] == "fp32"
    assert exact["difference"] < 1e-6

    _, again = rectab("export", folder / "unified", "--to", host, "--out", out, code=1)
    assert "exists already" in again
    single = ("export", folder / "unified", "--to", "pt2", "--out", tmp_path / "m.pt2")
    _, wrong = rectab(*single, "--precision", "int8", code=1)
    assert "--precision is of tables apart from their model" in " ".join(wrong.split())

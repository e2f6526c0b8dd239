"""A whole model as one graph: any batch size, any history length, and a file that says what it takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from data_helpers import HEADER, raw_lines
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture
from test_predict import folder, trained  # noqa: F401 - a fixture
from training_helpers import tiny_dataset

from rectab.models import CTRModel, ModelConfig
from rectab.models.registry import get_interaction, interactions
from rectab.tables import plan
from rectab.training.exporting.scoring import Scoring
from rectab.training.served import load

TOWERS: list[tuple[str, dict[str, Any], str]] = [
    ("none", {}, "fm"),
    ("mean", {}, "lr"),
    ("mean", {"max_history": 3}, "mlp"),
    ("din", {"hidden": [4]}, "deepfm"),
    ("din", {"hidden": [4], "weights": "softmax", "max_history": 2}, "dcnv2"),
    *(("none", {}, entry.name) for entry in interactions() if entry.name not in ("fm", "mf")),
]
"""Every interaction; ``mf`` is of a user and an item, which these rows are not."""


@pytest.mark.parametrize(("tower", "options", "interaction"), TOWERS)
@torch.no_grad()
def test_a_graph_of_eight_rows_serves_any_number_and_any_history(
    tower: str, options: dict[str, Any], interaction: str
) -> None:
    dataset = tiny_dataset(120)
    table = plan("unified", dataset.schema.vocabularies, 4, "60%").build().serving()
    known = {field.name for field in fields(get_interaction(interaction).config)}
    hidden = {name: [4] for name in ("hidden", "bottom", "top") if name in known}
    model = CTRModel(dataset.schema, table, ModelConfig.from_options(interaction, tower, hidden, options)).eval()
    scoring = Scoring(model).eval()
    inputs = scoring.flat(dataset.valid.batch(slice(0, 8)))
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)
    graph = torch.export.export(scoring, inputs, dynamic_shapes=shapes, strict=False).module()
    empty = np.flatnonzero(dataset.valid.history_lengths("click") == 0)
    for rows in (slice(0, 1), slice(0, 40), empty[:1], empty, np.array([int(empty[0]), 3])):
        batch = dataset.valid.batch(rows)
        torch.testing.assert_close(graph(*scoring.flat(batch)), torch.sigmoid(model(batch)), rtol=1e-5, atol=1e-6)


def test_export_compares_on_real_rows_and_says_what_it_takes(
    rectab: CommandLine,  # noqa: F811
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no compiler is there, the graph is as torch.export saves it."""
    trained(rectab, folder, "unified")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    out = tmp_path / "model.pt2"
    told = rectab.json("export", folder / "unified", "--to", "pt2", "--out", out)
    assert (told["format"], told["rows"]) == ("torch.export", 100)
    assert told["difference"] < 1e-6
    sidecar = json.loads((tmp_path / "model.pt2.json").read_text())
    assert [entry["name"] for entry in sidecar["inputs"]] == ["ids", "dense", "clicked_lengths", "seen"]
    assert sidecar["inputs"][0]["columns"] == ["user", "item"]
    assert sidecar["inputs"][0]["vocabularies"] == ["user", "item"]
    assert sidecar["inputs"][3]["vocabularies"] == ["item"]
    assert [entry["name"] for entry in sidecar["vocabularies"]] == ["user", "item"]
    assert sidecar["compared"] == {"rows": 100, "largest_difference": told["difference"]}

    model = load(folder / "unified")
    frame = pl.DataFrame(raw_lines(600)[-5:], schema=HEADER, orient="row")
    from rectab.data.asked_rows import AskedRows

    split = model.inputs.read(AskedRows(rows=frame)).split
    graph = torch.export.load(out).module()
    scores = graph(*Scoring(model.model).flat(split.batch(slice(0, 5)))).detach().numpy()
    np.testing.assert_allclose(scores, model.predict(frame), rtol=1e-5)


def test_what_cannot_be_exported(rectab: CommandLine, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    trained(rectab, folder, "full")
    _, err = rectab("export", folder / "full", "--to", "pt2", "--out", tmp_path / "model.onnx", code=1)
    assert "the name of this format ends in .pt2" in err
    gone = ["export", folder / "full", "--to", "pt2", "--out", tmp_path / "model.pt2", "--rows", tmp_path / "no.csv"]
    assert "no.csv: no such file" in rectab(*gone, code=1)[1]
    assert list(tmp_path.iterdir()) == []

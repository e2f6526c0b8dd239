"""A whole run as ONNX: onnxruntime gives the model's probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("polars")
pytestmark = pytest.mark.host

SMALL = {"rows": 900, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}


@pytest.mark.parametrize(
    ("table", "history"), [("unified", "mean"), ("unified", "din"), ("full", "din"), ("quantized", "mean")]
)
def test_onnx_gives_the_models_probabilities(tmp_path: Path, table: str, history: str) -> None:
    from typer.testing import CliRunner

    from rectab.cli import app
    from rectab.data import Recipe, prepare

    data = prepare(Recipe.model_validate({"name": "small", "synthetic": SMALL}), None, tmp_path / "data").path
    settings = ["--set", "train.max_epochs=1", "--set", "model.history.max_history=3", "--model", "mlp", "--dim", "4"]
    run, out = tmp_path / "run", tmp_path / "model.onnx"
    budget = [] if table == "full" else ["--budget", "40%"]
    arguments = ["train", str(data), "--table", table, *budget, "--history", history, *settings, "--out", str(run)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    made = CliRunner().invoke(app, ["export", str(run), "--to", "onnx", "--out", str(out), "--json"])
    assert made.exit_code == 0, made.output
    told = json.loads(out.with_name("model.onnx.json").read_text())
    assert told["format"] == "onnx"
    assert told["compared"]["largest_difference"] < 1e-5

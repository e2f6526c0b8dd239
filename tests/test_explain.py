"""Attention weights of a row: what is printed is what the model computes, by name, from what training wrote."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import prepared, raw_lines
from rich.console import Console
from training_helpers import tiny_dataset
from typer.testing import CliRunner

from rectab.cli import app
from rectab.data import PreparedDataset
from rectab.models import CTRModel, ModelConfig
from rectab.tables import plan
from rectab.training import TrainConfig, explain_checkpoint, explain_row, load_model, render_explanation, train_once
from rectab.training.explain import has_attention, rows_to_explain

LOG = {"sequences": [{"name": "seen_item", "column": "item", "target": "item"}]}
HISTORIES = [
    {"behaviour": "seen", "by": "position", **LOG},
    {
        "behaviour": "clicked",
        "where": "click = '1'",
        "sequences": [{"name": "clicked_item", "column": "item", "target": "item"}],
    },
]
SMALL: dict[str, Any] = {
    "model": "mlp",
    "model_options": {"hidden": [8], "history": {"hidden": [6], "max_history": 4}},
    "embedding_dim": 4,
    "train_config": TrainConfig(max_epochs=1, batch_size=8, lr=0.01, precision="fp32"),
    "progress": "off",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Two behaviours, seen and clicked, in a prepared folder."""
    return prepared(tmp_path_factory.mktemp("data"), raw_lines(), histories=HISTORIES)


@pytest.fixture(scope="module")
def trained(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train_once(data, method="unified", budget="50%", history="din", out_dir=out, **SMALL)
    return out


def test_weights_and_names_are_the_models_and_the_raw_datas(data: PreparedDataset, trained: Path) -> None:
    rows = raw_lines()
    model = load_model(trained / "model.safetensors")
    seen_lengths = []
    for row in range(8):
        explanation = explain_checkpoint(data, trained, "test", row)
        raw = rows[32 + row]  # the split is by row order: 24, 8 and 8 rows
        assert explanation.features == {"user": raw[1], "item": raw[2]}
        assert explanation.label == float(raw[0])
        batch = data.test.batch(np.array([row]))
        with torch.no_grad():
            assert explanation.probability == pytest.approx(float(torch.sigmoid(model(batch))[0]))
            interests = model.fields(batch)[0, 2:]
        before = [r for r in rows[: 32 + row] if r[1] == raw[1]]
        expected = {"seen": before[-4:], "clicked": [r for r in before if r[0] == "1" and int(r[3]) < int(raw[3])][-4:]}
        assert [b.behaviour for b in explanation.behaviours] == ["seen", "clicked"]
        for index, behaviour in enumerate(explanation.behaviours):
            name = f"{behaviour.behaviour}_item"
            assert [e.values[name] for e in behaviour.events] == [r[2] for r in expected[behaviour.behaviour]]
            assert behaviour.targets == {name: raw[2]}
            assert behaviour.total == pytest.approx(sum(e.weight for e in behaviour.events), abs=1e-6)
            # The interest that the model goes on with is the weighted sum of the events' vectors.
            ids = torch.tensor([_id_of(data, e.values[name]) for e in behaviour.events], dtype=torch.int64)
            weights = torch.tensor([e.weight for e in behaviour.events])
            vectors = model.table(ids, data.schema.vocabulary_index("item")).detach()
            torch.testing.assert_close((weights.unsqueeze(1) * vectors).sum(0), interests[index], rtol=1e-5, atol=1e-7)
            seen_lengths.append(len(behaviour.events))
    assert max(seen_lengths) == 4


def _id_of(data: PreparedDataset, value: str) -> int:
    import polars as pl

    index = data.schema.vocabulary_index("item")
    values = pl.read_parquet(data.path / f"vocabularies/{index}_values.parquet")
    return int(values.filter(pl.col("value") == value)["id"][0])


def test_the_command_prints_tables_and_json(data: PreparedDataset, trained: Path) -> None:
    run = CliRunner().invoke(app, ["explain", str(data.path), str(trained), "--row", "5", "--split", "test", "--json"])
    assert run.exit_code == 0, run.output
    printed = json.loads(run.output)
    assert printed == json.loads(json.dumps(explain_checkpoint(data, trained, "test", 5).to_json()))
    assert [b["behaviour"] for b in printed["behaviours"]] == ["seen", "clicked"]
    run = CliRunner().invoke(app, ["explain", str(data.path), str(trained / "model.safetensors"), "--row", "5"])
    assert run.exit_code == 0, run.output
    explanation = explain_checkpoint(data, trained, "valid", 5)
    assert f"predicted {explanation.probability:.4f}" in run.output
    for behaviour in explanation.behaviours:
        assert f"{behaviour.behaviour}: {len(behaviour.events)} event" in run.output
        for event in behaviour.events:
            assert f"{event.weight:+.4f}" in run.output


def test_the_most_recent_event_is_last_and_the_largest_weight_has_the_longest_bar(
    data: PreparedDataset, trained: Path
) -> None:
    explanation = explain_checkpoint(data, trained, "test", 7)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_explanation(explanation))
    lines = console.export_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "seen: 4 events" in line)
    shown = [line.split() for line in lines[start:] if line.split()[:1] and line.split()[0] in "4321"][:4]
    assert [line[0] for line in shown] == ["4", "3", "2", "1"]
    assert [line[1] for line in shown] == [e.values["seen_item"] for e in explanation.behaviours[0].events]
    bars = [len(line[3]) if len(line) > 3 else 0 for line in shown]
    largest = max(range(4), key=lambda i: abs(explanation.behaviours[0].events[i].weight))
    assert bars[largest] == max(bars) == 30


def test_softmax_weights_sum_to_one() -> None:
    dataset = tiny_dataset(rows=100)
    config = ModelConfig.from_options("mlp", "din", {"hidden": (4,)}, {"hidden": (4,), "weights": "softmax"})
    model = CTRModel(dataset.schema, plan("full", dataset.schema.vocabularies, 4).build(), config)
    lengths = dataset.valid.history_lengths("click")
    full, empty = int(lengths.argmax()), int(lengths.argmin())
    (behaviour,) = explain_row(model, dataset, "valid", full).behaviours
    assert behaviour.total == pytest.approx(1.0, abs=1e-6)
    assert set(behaviour.targets) == {"clicked_item", "clicked_genre"}
    assert lengths[empty] == 0
    (nothing,) = explain_row(model, dataset, "valid", empty).behaviours
    assert nothing.events == ()
    assert nothing.total == 0.0
    assert model.training  # left as it was


def test_bad_requests_are_one_clear_line(data: PreparedDataset, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 8: split 'test' of 'small' has rows 0 to 7"):
        explain_checkpoint(data, trained, "test", 8)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        explain_checkpoint(data, tmp_path, "test", 0)
    with pytest.raises(ValueError, match="other columns or vocabularies"):
        explain_checkpoint(tiny_dataset(rows=30), trained, "test", 0)
    mean = CTRModel(data.schema, plan("full", data.schema.vocabularies, 4).build(), ModelConfig("mlp", "mean"))
    assert not has_attention(mean)
    with pytest.raises(ValueError, match="'mean' has no attention weights"):
        explain_row(mean, data, "test", 0)


def test_rows_to_explain_are_clicked_have_history_and_differ_in_group() -> None:
    dataset = tiny_dataset()
    rows = rows_to_explain(dataset.valid, 4)
    lengths, groups = dataset.valid.history_lengths("click"), dataset.valid.groups
    assert groups is not None
    assert len(rows) == 4
    assert rows == sorted(rows)
    assert len({int(groups[row]) for row in rows}) == 4
    assert all(dataset.valid.labels[row] == 1 and lengths[row] >= 5 for row in rows)
    fitting = [r for r in range(len(lengths)) if dataset.valid.labels[r] == 1 and lengths[r] >= 5]
    assert rows[0] == fitting[0]
    assert rows_to_explain(dataset.valid, 4, least_events=99) == []
    with pytest.raises(KeyError, match="no behaviour 'like'"):
        dataset.valid.history_lengths("like")


def test_a_run_keeps_the_attention_of_validation_rows_if_asked(data: PreparedDataset) -> None:
    dataset = tiny_dataset(rows=300)
    kept = train_once(dataset, method="full", history="din", explain_rows=2, **SMALL).attention
    assert [e["row"] for e in kept] == rows_to_explain(dataset.valid, 2)
    assert all(e["split"] == "valid" for e in kept)
    assert (
        train_once(dataset, method="full", history="mean", explain_rows=2, **{**SMALL, "model_options": {}}).attention
        == []
    )
    assert train_once(dataset, method="full", history="din", **SMALL).attention == []


def test_json_keeps_the_most_recent_events() -> None:
    dataset = tiny_dataset(rows=100)
    model = CTRModel(
        dataset.schema, plan("full", dataset.schema.vocabularies, 4).build(), ModelConfig("mlp", "din")
    ).eval()
    row = int(dataset.valid.history_lengths("click").argmax())
    explanation = explain_row(model, dataset, "valid", row)
    whole, cut = explanation.to_json()["behaviours"][0], explanation.to_json(max_events=3)["behaviours"][0]
    assert cut["events"] == whole["events"][-3:]
    assert cut["left_out"] == len(whole["events"]) - 3
    assert cut["total"] == whole["total"]

"""Elastic widths: prefixes of weights, models that can be taken, one run in place of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import run_with_kills, tiny_dataset

from rectab.models import ModelConfig, interactions
from rectab.models.elastic import ElasticModel
from rectab.tables import TableOptions, plan
from rectab.training import RunResult, TrainConfig, evaluate, load_model, train_once
from rectab.training.compress.widths import Widths, open_runs
from rectab.training.elastic import elastic_loss, rows_of
from rectab.training.elastic_folder import width_folders

DATA = tiny_dataset(rows=900)
SMALL: dict[str, Any] = {"model_options": {"hidden": [12]}, "embedding_dim": 8, "progress": "off"}


def model_of(interaction: str, history: str = "none", widths: tuple[int, ...] = (6, 4, 2)) -> ElasticModel:
    torch.manual_seed(0)
    table = plan("full", DATA.schema.vocabularies, 8, None, options=TableOptions(gradient="dense")).build()
    options = {"embeddings": "shared"} if interaction == "armnet_plus" else {}
    return ElasticModel(DATA.schema, table, ModelConfig.from_options(interaction, history, options, {}), widths)


INTERACTIONS = [info.name for info in interactions() if info.name != "mf"]


@pytest.mark.parametrize(("interaction", "history"), [*((name, "none") for name in INTERACTIONS), ("dcnv2", "din")])
def test_a_width_is_the_model_that_is_taken(interaction: str, history: str) -> None:
    """Of every interaction: the same logits from shared weights and from a model of that width by itself."""
    model = model_of(interaction, history)
    batch = DATA.train.batch(np.arange(80))
    for _ in range(2):  # statistics of norms that differ by width
        model(batch)
        for width in model.widths:
            model.at(width, rows_of(batch, 0, 10 + 5 * width))
    model.eval()
    for width in (8, *model.widths):
        taken = model.taken(width)
        assert taken.table.embedding_dim == width
        with torch.no_grad():
            whole = model(batch) if width == 8 else model.at(width, batch)
            torch.testing.assert_close(taken(batch), whole, rtol=1e-5, atol=1e-6)


def test_the_first_layer_reads_a_prefix_of_every_field() -> None:
    """By hand: the columns of width 2 are numbers 0 and 1 of each of the fields, and the dense column after them."""
    model = model_of("mlp")
    fields = len(DATA.schema.categorical)
    weight = model.interaction.mlp[0].weight
    columns = [field * 8 + place for field in range(fields) for place in range(2)] + [fields * 8]
    assert torch.equal(model.taken(2).interaction.mlp[0].weight, weight[:, columns])
    assert torch.equal(model.taken(2).table(torch.tensor([3]), 1), model.table(torch.tensor([3]), 1)[:, :2])


def test_gradients_of_a_width_reach_its_prefix_and_nothing_else() -> None:
    model = model_of("deepfm")
    batch = DATA.train.batch(np.arange(40))
    model.at(2, batch).square().sum().backward()
    (_, store) = next(iter(model.table.row_stores()))
    assert store.weight.grad is not None
    assert store.weight.grad[:, :2].abs().sum() > 0
    assert store.weight.grad[:, 2:].abs().sum() == 0
    norms = {n for n, p in model.named_parameters() if n.startswith("narrow.") and p.grad is not None}
    assert norms
    assert all(name.startswith("narrow.2.") for name in norms)


def test_norms_are_all_that_a_width_has_of_its_own() -> None:
    model = model_of("deepfm")
    own = [name for name, _ in model.named_parameters() if name.startswith("narrow.")]
    assert own
    plain = sum(p.numel() for p in model.taken(8).dense_parameters())
    norms = sum(p.numel() for n, p in model.named_parameters() if n.startswith("narrow."))
    assert norms == 3 * 2 * 1200  # weight and bias of three norms of 400, a width
    assert sum(p.numel() for p in model.dense_parameters()) == plain + norms


def test_the_others_learn_from_the_full_width_and_do_not_teach_it() -> None:
    model = model_of("mlp")
    batch = DATA.train.batch(np.arange(64))
    full = model(batch)
    loss = elastic_loss(model, batch, full, False)
    ordinary = torch.nn.functional.binary_cross_entropy_with_logits(full, batch.labels)
    assert loss > ordinary
    (gradient,) = torch.autograd.grad(loss, full, retain_graph=True)
    (expected,) = torch.autograd.grad(ordinary, full)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("method", ["hashed", "unified"])
def test_only_the_full_table_has_prefixes(method: str) -> None:
    with pytest.raises(ValueError, match=f"prefixes of the rows of --table full, got --table {method}"):
        train_once(DATA, method=method, budget="50%", train_config=TrainConfig(elastic=(4,)), **SMALL)


def test_parts_that_are_no_prefixes_are_named() -> None:
    table = plan("full", DATA.schema.vocabularies, 8).build()
    with pytest.raises(ValueError, match=r"are no prefixes .*'shared'"):
        ElasticModel(DATA.schema, table, ModelConfig("armnet_plus"), (6,))


def test_widths_are_checked() -> None:
    for widths in ((8,), (4, 4), (0,)):
        with pytest.raises(ValueError, match=r"widths must differ and lie in 1\.\.7"):
            model_of("mlp", widths=widths)
    with pytest.raises(ValueError, match="elastic is for clicks"):
        TrainConfig(elastic=(4,), objective="mse")
    with pytest.raises(ValueError, match="measures no auc@5"):
        TrainConfig(elastic=(4,), monitor="auc@5")
    assert TrainConfig(elastic=(6, 4)).monitor == "auc+auc@6+auc@4"
    assert "elastic" not in TrainConfig().to_json()


@pytest.mark.parametrize("interaction", ["deepfm", "armnet_plus"])
def test_widths_that_share_the_table_alone(interaction: str) -> None:
    table = plan("full", DATA.schema.vocabularies, 8, None, options=TableOptions(gradient="dense")).build()
    model = ElasticModel(DATA.schema, table, ModelConfig(interaction), (4,), "table")
    batch = DATA.train.batch(np.arange(40))
    model.at(4, batch).square().sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    outside = {name for name in touched if not name.startswith("narrow.4.")}
    assert len(outside) == 1
    assert outside == {name for name in outside if name.startswith("table.")}
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.taken(4)(batch), model.at(4, batch), rtol=1e-5, atol=1e-6)


def run(out: Path | None, method: str = "full", budget: str | None = None, **changes: Any) -> RunResult:
    given: dict[str, Any] = {"max_epochs": 2, "batch_size": 128, "lr": 0.01, "elastic": (4, 2), "precision": "fp32"}
    config = TrainConfig(**(given | changes))
    return train_once(DATA, method=method, budget=budget, train_config=config, out_dir=out, **SMALL)


@pytest.mark.parametrize("share", ["table", "network"])
def test_one_run_leaves_a_folder_a_width_and_compress_takes_all(tmp_path: Path, share: str) -> None:
    result = run(tmp_path / "run", elastic_share=share)
    assert [path.name for path in width_folders(tmp_path / "run")] == ["width_4", "width_2"]
    for width, folder in ((8, "run"), (4, "run/width_4"), (2, "run/width_2")):
        model = load_model(tmp_path / folder / "model.safetensors")
        assert type(model).__name__ == "CTRModel"
        assert model.table.embedding_dim == width
        name = "auc" if width == 8 else f"auc@{width}"
        assert evaluate(model, DATA.valid)["auc"] == pytest.approx(result.valid[name], abs=1e-6)
    runs = open_runs([tmp_path / "run"], DATA)
    assert [each.embedding_dim for each in runs] == [8, 4, 2]
    choice = Widths(runs).encode(runs[0].model.table.ledger().bytes // 4)
    assert [attempt.embedding_dim for attempt in choice.attempts] == [8, 4, 2]
    assert run(tmp_path / "run", elastic_share=share).test == result.test  # read back


def test_quantized_takes_every_width_of_one_training(tmp_path: Path) -> None:
    result = run(tmp_path / "q", "quantized", "15%")
    assert result.encoded is not None
    assert [width["embedding_dim"] for width in result.encoded["widths"]] == [8, 4, 2]
    assert len(list((tmp_path / "q/trained").glob("*/result.json"))) == 1


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(None, checkpoint_seconds=0)
    resumed, calls = run_with_kills(monkeypatch, 5, lambda: run(tmp_path / "run", checkpoint_seconds=0))
    assert calls > 10
    assert resumed.test == whole.test

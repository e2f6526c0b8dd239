"""Every interaction with every tower over several tables, and what the parts compute."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from training_helpers import tiny_dataset, tiny_schema

from rectab.batch import Batch, Jagged
from rectab.models import CTRModel, ModelConfig, interactions, towers
from rectab.models.deep import DeepConfig
from rectab.models.dlrm import DLRM, DLRMConfig
from rectab.models.layers import FirstOrder
from rectab.models.shallow import sum_of_pairwise_products
from rectab.schema import Schema
from rectab.tables import TableOptions, plan

DIM = 4
EVERY = [info.name for info in interactions()]
INTERACTIONS = [name for name in EVERY if name != "mf"]  # it takes two fields, see test_topk.py
TOWERS = [info.name for info in towers()]


def model_of(interaction: str, history: str, method: str = "full", schema: Schema | None = None) -> CTRModel:
    schema = schema or tiny_schema()
    torch.manual_seed(0)
    budget = None if method == "full" else "50%"
    table = plan(method, schema.vocabularies, DIM, budget, options=TableOptions(gradient="dense")).build()
    small = {"hidden": (8, 6)} if hasattr(_config(interaction), "hidden") else {}
    return CTRModel(schema, table, ModelConfig.from_options(interaction, history, small))


def _config(interaction: str) -> object:
    return ModelConfig(interaction).interaction_config


@pytest.fixture(scope="module")
def batch() -> Batch:
    return tiny_dataset(rows=300).train.batch(np.arange(64))


def test_there_is_what_the_project_promises() -> None:
    assert EVERY == ["lr", "fm", "mlp", "deepfm", "wide_deep", "dcnv2", "dlrm", "armnet", "armnet_plus", "mf"]
    assert TOWERS == ["none", "mean", "din"]


@pytest.mark.parametrize(("interaction", "history"), list(itertools.product(INTERACTIONS, TOWERS)))
def test_any_interaction_with_any_tower(interaction: str, history: str, batch: Batch) -> None:
    model = model_of(interaction, history)
    logits = model(batch)
    assert logits.shape == (64,)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without


@pytest.mark.parametrize("interaction", INTERACTIONS)
@pytest.mark.parametrize("history", ["mean", "din"])
def test_evaluation_of_a_row_does_not_depend_on_its_batch_mates(interaction: str, history: str) -> None:
    split = tiny_dataset(rows=300).train
    model = model_of(interaction, history)
    model.train()
    model(split.batch(np.arange(200)))  # statistics other than the initial ones
    model.eval()
    with torch.no_grad():
        together = model(split.batch(np.arange(50)))
        alone = torch.cat([model(split.batch(np.array([row]))) for row in range(50)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("history", ["mean", "din"])
def test_only_the_most_recent_events_are_read(history: str) -> None:
    split = tiny_dataset(rows=100).train
    schema = tiny_schema()
    table = plan("full", schema.vocabularies, DIM).build()
    config = ModelConfig.from_options("mlp", history, {"hidden": (8,)}, {"max_history": 3})
    model = CTRModel(schema, table, config).eval()
    rows = np.arange(40)
    assert config.max_history == 3
    torch.testing.assert_close(model(split.batch(rows)), model(split.batch(rows, max_history=3)))
    assert not torch.allclose(model(split.batch(rows)), model(split.batch(rows, max_history=2)))


def test_padding_at_the_border_changes_nothing(batch: Batch) -> None:
    model = model_of("mlp", "din").eval()
    padded = {name: Jagged.from_padded(history.to_padded(20)[0]) for name, history in batch.histories.items()}
    again = Batch(batch.ids, batch.dense, padded)
    assert torch.equal(model(batch), model(again))


def test_rows_without_history_are_served() -> None:
    model = model_of("deepfm", "din").eval()
    empty = Jagged(torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    histories = {"clicked_item": empty, "clicked_genre": empty}
    batch = Batch(torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 1), histories)
    assert torch.isfinite(model(batch)).all()


def test_attention_gives_a_weight_for_every_event(batch: Batch) -> None:
    model = model_of("mlp", "din").eval()
    weights, segments = model.attention(batch, "click")
    assert weights.shape == segments.ids.shape == batch.histories["clicked_item"].values.shape
    with pytest.raises(ValueError, match="use history 'din'"):
        model_of("mlp", "mean").attention(batch, "click")
    with pytest.raises(KeyError, match="no behaviour 'like'"):
        model.attention(batch, "like")


def test_a_tower_needs_sequences() -> None:
    schema = Schema(tiny_schema().vocabularies, tiny_schema().categorical)
    with pytest.raises(ValueError, match="no sequence features"):
        model_of("mlp", "mean", schema=schema)
    assert model_of("dlrm", "none", schema=schema)


def test_the_table_must_serve_the_schema() -> None:
    schema = tiny_schema()
    table = plan("full", schema.vocabularies[:2], DIM).build()
    with pytest.raises(ValueError, match="the schema has"):
        CTRModel(schema, table, ModelConfig())


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_the_model_keeps_nothing_by_id_outside_the_table(interaction: str) -> None:
    schema = tiny_schema()
    sizes = {v.num_embeddings for v in schema.vocabularies}
    model = model_of(interaction, "din")
    shapes = [tuple(p.shape) for p in model.dense_parameters()]
    assert not [shape for shape in shapes if sizes & set(shape) - {6}]


def test_pairwise_products_by_brute_force() -> None:
    fields = torch.randn(5, 4, 3)
    expected = sum((fields[:, i] * fields[:, j]).sum(1) for i in range(4) for j in range(i))
    torch.testing.assert_close(sum_of_pairwise_products(fields), expected)


def test_first_order_with_one_dimension_is_logistic_regression() -> None:
    first = FirstOrder(3, 1, 2)
    assert torch.equal(first.readout.abs(), torch.ones(3, 1))
    first.readout.data.fill_(1.0)
    fields, dense = torch.randn(4, 3, 1), torch.randn(4, 2)
    first.dense.data = torch.tensor([0.5, -1.0])
    torch.testing.assert_close(first(fields, dense), fields.sum((1, 2)) + dense @ first.dense)


def test_dlrm_reads_every_pair_once() -> None:
    assert len(DLRM(4, DIM, 2, DLRMConfig()).pairs) == 10
    assert len(DLRM(4, DIM, 0, DLRMConfig()).pairs) == 6


@pytest.mark.parametrize(("interaction", "history"), list(itertools.product(INTERACTIONS, TOWERS)))
def test_configs_round_trip_through_json(interaction: str, history: str) -> None:
    config = ModelConfig(interaction, history)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_options_are_checked() -> None:
    config = ModelConfig.from_options("mlp", "din", {"hidden": [16]}, {"max_history": 9})
    assert config.interaction_config == DeepConfig(hidden=(16,))
    with pytest.raises(ValueError, match="did you mean 'deepfm'"):
        ModelConfig("deepmf")
    with pytest.raises(ValueError, match="mlp: unknown key 'layers'"):
        ModelConfig.from_options("mlp", interaction_options={"layers": 3})
    with pytest.raises(TypeError, match="takes a"):
        ModelConfig("dcnv2", interaction_config=DLRMConfig())

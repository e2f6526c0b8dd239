"""DIN's mini-batch aware penalty (section 5.1): what rows are counted, and the update against the paper's equation."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_helpers import tiny_dataset

from rectab.batch import Batch
from rectab.data import PreparedDataset
from rectab.data.history_store import HistoryStore
from rectab.data.split import Split
from rectab.models import CTRModel, ModelConfig
from rectab.ops import RowStore
from rectab.optim import RowSGD
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables import EmbeddingTable, TableMethod, TableOptions, build_table, methods, plan
from rectab.tables.row_counts import row_counts
from rectab.training import TrainConfig, Trainer, train_once
from rectab.training.optimizers import OptimizerSet
from rectab.training.run import model_config

METHODS = [pytest.param(m, id=m.name) for m in methods() if not m.without_rows and not m.table.ids_move]
DIM = 4


def table_of(method: TableMethod, vocabularies: Any, **options: Any) -> EmbeddingTable:
    return plan(
        method.name,
        vocabularies,
        DIM,
        None if method.fills == "one" else "50%",
        options=TableOptions(**options),
    ).build()


def counted(dataset: PreparedDataset) -> PreparedDataset:
    """The data set with training counts in its schema (DNIS sorts ids into blocks by them)."""
    occurrences = dataset.train.occurrences()
    schema = dataset.schema
    vocabularies = tuple(replace(v, counts=occurrences[v.name]) for v in schema.vocabularies)
    schema = replace(schema, vocabularies=vocabularies)
    splits = {name: replace(getattr(dataset, name), schema=schema) for name in ("train", "valid", "test")}
    return replace(dataset, schema=schema, **splits)


def reads_of_one(table: EmbeddingTable, id_: int, vocabulary: int) -> dict[str, set[int]]:
    """The rows of every store that a lookup of one id asks for."""
    found: dict[str, set[int]] = {}
    for name, store in table.row_stores():
        store.before_lookup = lambda rows, name=name: found.setdefault(name, set()).update(rows.flatten().tolist())
    table(torch.tensor([id_]), vocabulary)
    for _, store in table.row_stores():
        store.before_lookup = None
    return found


def brute_force(table: EmbeddingTable, id_counts: dict[str, np.ndarray]) -> dict[str, list[int]]:
    totals = {name: [0] * store.num_rows for name, store in table.row_stores()}
    for index, vocabulary in enumerate(table.vocabularies):
        for id_, count in zip(vocabulary.known_ids().tolist(), id_counts[vocabulary.name].tolist(), strict=True):
            for name, rows in reads_of_one(table, id_, index).items() if count else ():
                for row in rows:
                    totals[name][row] += count
    return totals


@pytest.mark.parametrize("served", [False, True], ids=["trained", "served"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_count_the_ids_that_read_them_in_any_table(method: TableMethod, served: bool) -> None:
    dataset = counted(tiny_dataset(rows=400))
    id_counts = dataset.train.occurrences()
    table = table_of(method, dataset.schema.vocabularies)
    table = table.serving() if served else table
    before = {name: store.weight.detach().clone() for name, store in table.row_stores()}
    state = torch.get_rng_state()
    found = row_counts(table, id_counts)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: counts.tolist() for name, counts in found.items()} == brute_force(table, id_counts)
    for name, store in table.row_stores():
        assert torch.equal(store.weight, before[name])
        assert store.before_lookup is None
        assert not store.pending


def test_rows_of_the_full_table_count_their_id_and_shared_rows_the_sum() -> None:
    vocabularies = [Vocabulary("a", 5), Vocabulary("b", 3)]
    id_counts = {"a": np.array([0, 7, 1, 1000, 2]), "b": np.array([3, 0, 40])}
    full = plan("full", vocabularies, DIM).build()
    assert row_counts(full, id_counts)["store"].tolist() == [0, 7, 1, 1000, 2, 3, 0, 40]
    # One row for everything: both chunks of an id land on it, and the id still counts once.
    one_row = replace(plan("unified", vocabularies, DIM).config, rows_per_table=1, num_chunks=2)
    shared = type(plan("unified", vocabularies, DIM).build())(vocabularies, DIM, one_row)
    assert row_counts(shared, id_counts)["store"].tolist() == [7 + 1 + 1000 + 2 + 3 + 40]
    with pytest.raises(ValueError, match=r"id_counts\['b'\] must have shape \(3,\)"):
        row_counts(full, {"a": id_counts["a"]})


def test_hashed_vocabularies_count_their_training_ids() -> None:
    ids = np.array([-(2**60), 5, 2**40])
    vocabularies = [Vocabulary("h", 3, hashed=True, counts=np.array([1, 1, 1]), ids=ids)]
    table = plan("hashed", vocabularies, DIM).build()
    id_counts = {"h": np.array([10, 200, 3000])}
    assert row_counts(table, id_counts)["store"].tolist() == brute_force(table, id_counts)["store"]
    assert row_counts(table, id_counts)["store"].sum() == 3210


@pytest.mark.parametrize("max_history", [None, 0, 1, 3])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_occurrences_are_what_an_epoch_reads(max_history: int | None, part: bool) -> None:
    dataset = tiny_dataset(rows=200)
    split = dataset.train.restrict(np.arange(150)[::-1]) if part else dataset.train
    expected: dict[str, Counter[int]] = {v.name: Counter() for v in dataset.schema.vocabularies}
    for row in range(len(split)):
        batch = split.batch(np.array([row]), max_history)
        for feature, column in zip(dataset.schema.categorical, batch.ids.unbind(1), strict=True):
            expected[feature.vocabulary].update(column.tolist())
        for feature in dataset.schema.behaviours["click"]:
            expected[feature.vocabulary].update(batch.histories[feature.name].values.tolist())
    found = split.occurrences(max_history)
    for vocabulary in dataset.schema.vocabularies:
        assert found[vocabulary.name].tolist() == [
            expected[vocabulary.name][i] for i in range(len(found[vocabulary.name]))
        ]


def test_occurrences_of_hashed_ids_leave_out_what_training_never_saw() -> None:
    known = np.array([-7, 3, 10**12])
    schema = Schema(
        (Vocabulary("h", 3, hashed=True, ids=known),),
        (Feature("item", "h"), Feature("past", "h", "sequence", "click", "item")),
    )
    ids = np.array([[3], [3], [99]])
    store = HistoryStore(schema.behaviours["click"], np.array([[0, 2], [1, 2], [0, 0]]), (np.array([-7, 3, 5]),))
    split = Split("train", schema, ids, np.empty((3, 0), np.float32), np.zeros(3, np.float32), None, None, (store,))
    assert split.occurrences()["h"].tolist() == [1, 2 + 2, 0]


def penalised_loss(model: CTRModel, batch: Batch, strength: float, counts: dict[str, Tensor]) -> Tensor:
    """The paper's objective on one batch: mean loss plus ``strength / 2 * ||w_j||^2 / n_j`` for every distinct row."""
    read: dict[str, list[Tensor]] = {}
    for name, store in model.table.row_stores():
        store.before_lookup = lambda rows, name=name: read.setdefault(name, []).append(rows.flatten())
    assert batch.labels is not None
    loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels.to(torch.float64))
    for name, store in model.table.row_stores():
        if name not in read:  # nobody owns such a row yet
            continue
        rows = torch.cat(read[name]).unique()
        loss = loss + strength / 2 * (store.weight[rows].square().sum(1) / counts[name][rows]).sum()
    return loss


STRAIGHT_THROUGH = {"dpq", "mgqe"}
"""Their gradients are those of no function: differences of the loss say nothing of them."""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, id=m.name)
        for m in methods()
        if not (m.needs_own_trainer or m.without_rows or m.table.ids_move or m.name in STRAIGHT_THROUGH)
    ],
)
def test_the_step_is_the_gradient_of_the_papers_objective(method: TableMethod) -> None:
    """Against finite differences in float64; ids come several times a batch, as targets and in histories."""
    dataset, strength, lr = tiny_dataset(rows=300), 5.0, 0.5
    id_counts = dataset.train.occurrences()
    batch = dataset.train.batch(np.arange(24))
    config = ModelConfig.from_options(
        "mlp", "din", {"hidden": (6,), "batch_norm": False}, {"hidden": (5,), "activation": "sigmoid"}
    )
    torch.manual_seed(1)
    model = CTRModel(dataset.schema, table_of(method, dataset.schema.vocabularies, init_std=0.5), config)
    options = TableOptions(gradient="dense", rows="fp64")
    copied = build_table(method.name, dataset.schema.vocabularies, DIM, model.table.config, options)
    wide = CTRModel(dataset.schema, copied, config).double()
    wide.load_state_dict(
        {key: value.double() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    )
    wide_batch = replace(batch, dense=batch.dense.double())
    settings = TrainConfig(optimizer="sgd", lr=lr, embedding_l2=strength, embedding_l2_mode="minibatch")
    optimizers = OptimizerSet(model, settings, id_counts=id_counts)
    counts = row_counts(model.table, id_counts)

    before = {name: store.weight.detach().clone() for name, store in model.table.row_stores()}
    assert batch.labels is not None
    nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels).backward()
    optimizers.step()

    generator, outside = torch.Generator().manual_seed(2), 0
    for name, store in model.table.row_stores():
        step = (before[name] - store.weight.detach()) / lr
        touched = step.abs().sum(1).nonzero().squeeze(1)
        assert (len(touched) > 0) == bool(counts[name].any())
        outside += store.num_rows - len(touched)
        weight = dict(wide.table.row_stores())[name].weight
        entries = [
            (row, column)
            for row in touched[torch.randperm(len(touched), generator=generator)[:12]].tolist()
            for column in range(min(2, store.row_dim))
        ]
        for row, column in entries:
            values = []
            for shift in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[row, column] += shift
                    values.append(float(penalised_loss(wide, wide_batch, strength, counts)))
                    weight[row, column] -= shift
            assert float(step[row, column]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=2e-5)
    assert outside > 0, "rows outside the batch stay where they are"


def test_a_row_is_penalised_once_a_batch_and_less_the_more_frequent() -> None:
    """By hand: ids 1, 2, 3 with n = 4, 1, 2; the penalty alone moves the rows of the batch."""
    table = plan("full", [Vocabulary("item", 4)], 2, options=TableOptions(init_std=1.0)).build()
    counts = row_counts(table, {"item": np.array([0, 4, 1, 2])})
    optimizer = RowSGD(list(table.row_stores()), 0.1, weight_decay=0.8, decay="minibatch", row_counts=counts)
    (store,) = (store for _, store in table.row_stores())
    before = store.weight.detach().clone()
    (table(torch.tensor([1, 1, 1, 2]), 0) * 0.0).sum().backward()
    optimizer.step()
    factors = torch.tensor([1.0, 1 - 0.1 * 0.8 / 4, 1 - 0.1 * 0.8 / 1, 1.0])
    torch.testing.assert_close(store.weight.detach(), before * factors.unsqueeze(1))


def test_an_epoch_with_one_occurrence_a_batch_penalises_every_id_alike() -> None:
    """Sum over the n_j batches that hold id j of strength * w / n_j: strength * w for every id (lr small)."""
    strength, lr, counts = 0.5, 1e-2, [1, 4, 32]
    store = RowStore(3, 2, init_std=1.0, generator=torch.Generator().manual_seed(0))
    before = store.weight.detach().clone()
    options: dict[str, Any] = {
        "weight_decay": strength,
        "decay": "minibatch",
        "row_counts": {"t": torch.tensor(counts)},
    }
    optimizer = RowSGD([("t", store)], lr, **options)
    for step in range(max(counts)):
        present = torch.tensor([row for row, count in enumerate(counts) if step < count])
        (store(present) * 0.0).sum().backward()
        optimizer.step()
    torch.testing.assert_close((before - store.weight.detach()) / lr, strength * before, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("history", ["none", "din"])
@pytest.mark.parametrize("method", METHODS)
def test_counts_reach_the_optimizer_of_every_table(method: TableMethod, history: str) -> None:
    dataset = counted(tiny_dataset(rows=300))
    config = TrainConfig(embedding_l2=0.1, embedding_l2_mode="minibatch")
    table = table_of(method, dataset.schema.vocabularies)
    trainer = Trainer(dataset, table, model_config("mlp", history), config, progress="off")
    expected = brute_force(copy.deepcopy(table), dataset.train.occurrences(0 if history == "none" else None))
    optimizers = OptimizerSet(trainer.model, config, (), trainer.id_counts)
    shares = {
        key: tensor
        for key, tensor in optimizers.by_part["rows"].state_tensors()
        if key.endswith(".share")  # type: ignore[attr-defined]
    }
    assert set(shares) == {f"{name}.share" for name in expected}
    for name, counts in expected.items():
        torch.testing.assert_close(shares[f"{name}.share"], 1 / torch.tensor(counts).clamp(min=1).float())


@pytest.mark.parametrize("method", METHODS)
def test_every_table_trains_with_the_penalty(method: TableMethod) -> None:
    dataset = counted(tiny_dataset(rows=400))
    settings = TrainConfig(
        max_epochs=1, batch_size=64, evaluations_per_epoch=1, embedding_l2=0.01, embedding_l2_mode="minibatch"
    )
    quick = {
        "optembed": {"generations": 1, "population": 4, "parents": 2},
        "dnis": {"warm_epochs": 1, "search_epochs": 1},
    }
    result = train_once(
        dataset,
        method=method.name,
        budget=None if method.fills == "one" else "60%",
        method_options=quick.get(method.name),
        model="mlp",
        history="din",
        model_options={"hidden": [8], "history": {"hidden": [8]}},
        embedding_dim=DIM,
        train_config=settings,
        progress="off",
    )
    assert result.test is not None
    assert 0 < result.test["auc"] < 1


def test_the_penalty_is_felt_in_training() -> None:
    """With a huge strength, rows shrink."""
    dataset = tiny_dataset(rows=400)
    norms = {}
    for strength in (0.0, 50.0):
        table = plan("full", dataset.schema.vocabularies, DIM, options=TableOptions(init_std=1.0)).build()
        config = TrainConfig(
            optimizer="sgd", lr=0.1, batch_size=100, max_epochs=1, embedding_l2=strength, embedding_l2_mode="minibatch"
        )
        trainer = Trainer(dataset, table, model_config("mlp", "din"), config, progress="off")
        trainer.fit()
        norms[strength] = float(next(iter(trainer.table.row_stores()))[1].weight.detach().norm())
    assert norms[50.0] < 0.7 * norms[0.0]


def test_a_table_whose_ids_move_has_no_counts_to_divide_by() -> None:
    vocabularies = [Vocabulary("item", 50, counts=np.ones(50, np.int64))]
    table = plan("dynamic", vocabularies, DIM, "50%").build()
    with pytest.raises(ValueError, match="dynamic: ids change rows as they come"):
        row_counts(table, {"item": np.ones(50, np.int64)})

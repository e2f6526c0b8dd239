"""Every registered table under the history towers: target and history of a vocabulary are the same vectors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import GENRES, ITEMS, tiny_dataset, tiny_schema

from rectab.batch import Batch, Jagged
from rectab.models import CTRModel, ModelConfig
from rectab.models.base import _Behaviour
from rectab.schema import Schema
from rectab.tables import TableMethod, TableOptions, methods, plan

DIM = 4
METHODS = [pytest.param(m, id=m.name) for m in methods()]
TOWERS = ["mean", "din"]


def counted_schema() -> Schema:
    """With training counts: DNIS sorts ids into blocks by them."""
    counts = tiny_dataset(rows=300).train.occurrences()
    schema = tiny_schema()
    return replace(schema, vocabularies=tuple(replace(v, counts=counts[v.name]) for v in schema.vocabularies))


def model_of(method: TableMethod, history: str, served: bool = False) -> CTRModel:
    schema = counted_schema()
    budget = None if method.fills == "one" else "60%"
    # Ids without a row of their own share some; they would read zeros, and each vocabulary has its own.
    given: dict[str, Any] = {"absent": "rows", "pool": False, "width": 0} if method.table.ids_move else {}
    table = plan(method.name, schema.vocabularies, DIM, budget, options=TableOptions(init_std=0.5), **given).build()
    torch.manual_seed(0)
    config = ModelConfig.from_options("mlp", history, {"hidden": (6,)}, {"hidden": (5,)} if history == "din" else {})
    return CTRModel(schema, table.serving() if served else table, config)


def batch_of(item: Tensor, past: list[list[int]]) -> Batch:
    """Rows of user 1 and genre 1 with these items and past items; past genres are 2."""
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in past]).tolist()])
    items = torch.tensor([id_ for row in past for id_ in row], dtype=torch.int64)
    ids = torch.stack([torch.ones_like(item), item, torch.ones_like(item)], 1)
    histories = {"clicked_item": Jagged(items, offsets), "clicked_genre": Jagged(torch.full_like(items, 2), offsets)}
    return Batch(ids, torch.zeros(len(item), 1), histories)


def rows_of(model: CTRModel, id_: int) -> set[tuple[str, int]]:
    """(store, row) of everything that a lookup of one item reads."""
    found: set[tuple[str, int]] = set()
    for name, store in model.table.row_stores():
        store.before_lookup = lambda rows, name=name: found.update((name, row) for row in rows.flatten().tolist())
    model.table(torch.tensor([id_]), model.schema.vocabulary_index("item"))
    for _, store in model.table.row_stores():
        store.before_lookup = None
    return found


def moved_rows(model: CTRModel) -> set[tuple[str, int]]:
    """(store, row) of everything that pending gradients would move."""
    moved: set[tuple[str, int]] = set()
    for name, store in model.table.row_stores():
        for rows, gradients in store.pending:
            moved.update((name, row) for row in rows[gradients.abs().sum(1) > 0].tolist())
        store.gradients.drop()
    return moved


@pytest.mark.parametrize("served", [False, True], ids=["trained", "served"])
@pytest.mark.parametrize("history", TOWERS)
@pytest.mark.parametrize("method", METHODS)
def test_target_and_history_of_an_id_are_the_same_vector(method: TableMethod, history: str, served: bool) -> None:
    model = model_of(method, history, served).eval()
    items = torch.arange(1, ITEMS)
    batch = batch_of(items, [[int(item)] for item in items])
    with torch.no_grad():
        embedded = model.table(batch.ids, model.field_vocabularies)
        behaviour = next(iter(model.behaviours.values()))
        assert isinstance(behaviour, _Behaviour)
        events, _, targets = behaviour.inputs(batch, model.table, embedded)
    # A network rounds as the size of its batch has it.
    same = partial(torch.allclose, rtol=1e-4, atol=1e-6) if method.without_rows else torch.equal
    assert same(events[:, 0], embedded[:, 1])
    assert same(targets[:, 0], events[:, 0])
    assert events[:, 0].abs().sum() > 0
    genres = torch.arange(1, GENRES)
    assert same(model.table(genres, 2), model.table(genres.unsqueeze(0), torch.tensor([[2]]))[0])


@pytest.mark.parametrize("history", TOWERS)
@pytest.mark.parametrize("method", [m for m in methods() if not m.without_rows], ids=lambda m: m.name)
def test_gradients_reach_the_rows_of_target_and_history_alike(method: TableMethod, history: str) -> None:
    model = model_of(method, history)
    model.train()
    target, past = 5, 40
    # Rows that a compressed table shares between the two, or with users and genres, say nothing.
    own_target, own_past = rows_of(model, target) - rows_of(model, past), rows_of(model, past) - rows_of(model, target)
    moved_by = {}
    for name, batch in {
        "target only": batch_of(torch.tensor([target] * 8), [[] for _ in range(8)]),
        "history only": batch_of(torch.tensor([7] * 8), [[past, past] for _ in range(8)]),
        "both": batch_of(torch.tensor([target] * 8), [[past] for _ in range(8)]),
    }.items():
        (model(batch) * torch.arange(1.0, 9.0)).sum().backward()
        moved_by[name] = moved_rows(model)
    assert own_target & moved_by["target only"]
    assert own_past & moved_by["history only"]
    assert own_target & moved_by["both"]
    assert own_past & moved_by["both"]


@pytest.mark.parametrize("history", TOWERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_table_is_evaluated_row_by_row(method: TableMethod, history: str) -> None:
    split = tiny_dataset(rows=100).train
    model = model_of(method, history).eval()
    with torch.no_grad():
        together = model(split.batch(np.arange(30)))
        alone = torch.cat([model(split.batch(np.array([row]))) for row in range(30)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)

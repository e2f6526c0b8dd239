"""The bytes of the id map beside those of the table, and under the budget where they are put there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from rectab.data import PreparedDataset, Recipe, prepare
from rectab.data.values import read_values
from rectab.id_bytes import RANGE_BYTES, map_bytes
from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Rare, Shared
from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, methods, plan
from rectab.tables.plan_list import plan_all, plan_renderables
from rectab.training import TrainConfig, render_result, train_once
from rectab.training.compress.curve import compress
from rectab.training.compress.encoder import Encoder
from rectab.training.compress.folder import write_run
from rectab.training.compress.mapped import omitted_ids
from rectab.training.compress.source import open_run
from rectab.training.ids_file import IDS_FILE, load_ids
from rectab.training.result import RunResult

TRAINING = TrainConfig(batch_size=500, max_epochs=2, lr=0.01, precision="fp32")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    made = {"rows": 3000, "users": 300, "items": 900, "fields": {"page": 30}, "categories": 6}
    recipe = Recipe.model_validate({"name": "small", "synthetic": made})
    return prepare(recipe, None, tmp_path_factory.mktemp("data") / "out")


def train(dataset: PreparedDataset, out: Path | None, **options: Any) -> RunResult:
    given = {"method": "full", "model": "lr", "embedding_dim": 8, "read_test": False, "progress": "off"}
    return train_once(dataset, **{**given, **options}, train_config=TRAINING, out_dir=out)


@pytest.fixture(scope="module")
def run(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "full"
    train(dataset, folder)
    return folder


def plan_both(vocabularies: Sequence[Vocabulary], name: str, budget: int, size: int) -> tuple[Any, Any]:
    beside, within = (
        plan_all(vocabularies, 8, budget, [name], map_bytes=size, count_ids=counted)[0] for counted in (False, True)
    )
    return beside.plan, within.plan


@pytest.mark.parametrize("name", [m.name for m in methods() if m.fills != "one" and m.trained_as is None])
def test_a_table_gets_what_the_map_leaves(vocabularies: list[Vocabulary], name: str) -> None:
    budget, size = plan("full", vocabularies, 8).serving.bytes // 2, 1000
    beside, within = plan_both(vocabularies, name, budget, size)
    assert beside.serving == plan(name, vocabularies, 8, budget).serving
    assert within.serving == plan(name, vocabularies, 8, budget - size).serving
    assert within.budget_bytes == beside.budget_bytes == budget
    assert within.budget_share == pytest.approx((within.serving.bytes + size) / budget)
    assert (within.to_json()["map_bytes"], within.to_json()["count_ids"]) == (size, True)


def test_a_map_that_leaves_too_little_is_refused_with_numbers(vocabularies: list[Vocabulary]) -> None:
    smallest = plan_all(vocabularies, 8, 1, ["unified"])[0].smallest_bytes
    assert smallest is not None
    expected = (
        rf"unified: a budget of 700 bytes is infeasible; the smallest feasible is {smallest + 700}.*700 bytes for the"
    )
    with pytest.raises(InfeasibleBudget, match=expected):
        plan("unified", vocabularies, 8, 700, map_bytes=700, count_ids=True)
    exact = plan("unified", vocabularies, 8, smallest + 700, map_bytes=700, count_ids=True)
    assert exact.serving.bytes == smallest
    assert not plan("full", vocabularies, 8, None, map_bytes=700, count_ids=True).count_ids, "there is no budget"


def test_plan_prints_the_map(vocabularies: list[Vocabulary]) -> None:
    for counted, text in ((False, "id map 1000 B beside it"), (True, "id map 1000 B within the budget")):
        console = Console(width=200)
        with console.capture() as capture:
            plans = plan_all(vocabularies, 8, "50%", ["unified"], map_bytes=1000, count_ids=counted)
            console.print(*plan_renderables(plans, 8, "50%"))
        assert text in " ".join(capture.get().split())


@pytest.mark.parametrize("counted", [False, True])
def test_a_run_keeps_its_map_and_says_its_bytes(dataset: PreparedDataset, tmp_path: Path, counted: bool) -> None:
    result = train(dataset, tmp_path, method="unified", budget="40%", count_ids=counted)
    ids = load_ids(tmp_path / IDS_FILE)
    assert result.map_bytes == ids.bytes == map_bytes(dataset.schema)
    assert result.bytes_within_budget == result.serving_bytes + (ids.bytes if counted else 0)
    assert result.budget_bytes is not None
    assert 0.9 * result.budget_bytes < result.bytes_within_budget <= result.budget_bytes
    assert train(dataset, tmp_path, method="unified", budget="40%", count_ids=counted) == result, "read back"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render_result(result))
    assert ("within the budget" in capture.get()) == counted
    assert "id map" in capture.get()


def test_results_of_before_the_map_was_counted_are_read(run: Path) -> None:
    plain = json.loads((run / "result.json").read_text())
    del plain["map_bytes"], plain["table"]["map_bytes"], plain["table"]["count_ids"]
    result = RunResult.from_json(plain)
    assert result.map_bytes is None
    assert result.bytes_within_budget == result.serving_bytes
    render_result(result)


def test_ids_of_rare_blocks_leave_the_map_in_whole_ranges(dataset: PreparedDataset) -> None:
    first = dataset.schema.vocabularies[0]
    size, rest = first.num_embeddings, range(1, len(dataset.schema.vocabularies))
    blocks = [Block(0, 0, 5), Block(0, 5, 9), Block(0, 9, 20), Block(0, 20, 25), Block(0, 25, size)]
    encodings = [Shared(), Rare(), Rare(), Shared(), Rare()]
    blocks += [Block(v, 0, dataset.schema.vocabularies[v].num_embeddings) for v in rest]
    encodings += [Shared() for _ in rest]
    made = omitted_ids(Allocation(tuple(blocks), tuple(encodings), np.zeros(len(blocks)), 0), dataset.schema)
    assert made == {first.name: [(5, 20), (25, size)]}
    hashed = replace(first, hashed=True)
    schema = replace(dataset.schema, vocabularies=(hashed, *dataset.schema.vocabularies[1:]))
    assert omitted_ids(Allocation(tuple(blocks), tuple(encodings), np.zeros(len(blocks)), 0), schema) == {}
    saved = map_bytes(dataset.schema) - map_bytes(dataset.schema, made)
    assert saved > 2 * (size - 10) - 2 * RANGE_BYTES, "more than two bytes an id"


def test_an_encoded_table_and_its_map_fit_together_and_values_read_their_vectors(
    dataset: PreparedDataset, run: Path, tmp_path: Path
) -> None:
    opened = open_run(run, dataset)
    counting, full = Encoder(opened, count_ids=True), sum(v.nbytes for v in opened.vectors)
    whole = map_bytes(dataset.schema)
    for budget in (int(0.5 * full), int(0.1 * full), counting.smallest_bytes):
        made = counting.encode(budget)
        assert made.serving_bytes + made.map_bytes <= budget
        if budget > counting.smallest_bytes:  # few blocks, so the steps between options are coarse
            assert made.serving_bytes + made.map_bytes >= 0.9 * budget
        write_run(tmp_path / str(budget), made, opened.result)
        ids = load_ids(tmp_path / str(budget) / IDS_FILE)
        assert ids.bytes == made.map_bytes
        check_vectors(dataset, made.model.table, ids)
    assert made.map_bytes < whole / 2, "at the smallest budget most ids leave the map"
    with pytest.raises(InfeasibleBudget, match=f"the smallest feasible is {counting.smallest_bytes}"):
        counting.encode(counting.smallest_bytes - 1)


def check_vectors(dataset: PreparedDataset, table: torch.nn.Module, ids: Any) -> None:
    for index, vocabulary in enumerate(dataset.schema.vocabularies):
        values = read_values(dataset, vocabulary.name)
        assert values is not None
        read = ids.vocabularies[vocabulary.name].ids_of(pl.concat([values["value"], pl.Series(["never seen"])]))
        wanted = np.r_[values["id"].to_numpy(), 0]
        found, expected = (table(torch.from_numpy(i), torch.tensor(index)) for i in (read, wanted))
        assert torch.equal(found, expected)


def test_compress_counts_ids_when_asked(dataset: PreparedDataset, run: Path, tmp_path: Path) -> None:
    beside = compress(dataset, [run], tmp_path / "beside", ["30%"]).points[0]
    within = compress(dataset, [run], tmp_path / "within", ["30%"], count_ids=True).points[0]
    assert beside.serving_bytes <= beside.budget_bytes < beside.serving_bytes + beside.map_bytes
    assert within.serving_bytes + within.map_bytes <= within.budget_bytes
    assert json.loads((tmp_path / "within" / "curve.json").read_text())["count_ids"] is True

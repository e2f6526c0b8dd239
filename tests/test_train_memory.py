"""The second budget: what training a table takes, counted before it and after it, and refused by name with numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sweep_fakes import CONFIG, finished_sweep
from torch import nn
from training_helpers import tiny_dataset

from rectab.schema import Vocabulary
from rectab.swap.planning import plan_swap
from rectab.sweep.analysis import sections_of
from rectab.sweep.report_tables import section_tables
from rectab.sweep.results import collect_results
from rectab.sweep.sweep import _was_limited
from rectab.tables import InfeasibleTraining, TableOptions, plan
from rectab.tables.plan_list import plan_all
from rectab.training import TrainConfig, train_once

VOCABULARIES = [Vocabulary("user", 1000), Vocabulary("item", 500)]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("gradient", ["row", "dense"])
def test_a_plan_counts_what_training_then_holds(gradient: Any, optimizer: Any) -> None:
    dataset = tiny_dataset(rows=200)
    config = TrainConfig(max_epochs=1, evaluations_per_epoch=1, gradient=gradient, optimizer=optimizer, batch_size=64)
    result = train_once(dataset, method="hashed", budget="50%", model="lr", train_config=config, progress="off")
    assert result.table["training_bytes"] == result.training_bytes


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("square", ["element", "row", "factored"])
def test_a_plan_counts_state_of_fewer_bytes(state: Any, square: Any) -> None:
    dataset = tiny_dataset(rows=200)
    config = TrainConfig(max_epochs=1, evaluations_per_epoch=1, batch_size=64, row_state=state, row_square=square)
    result = train_once(
        dataset, method="hashed", budget="50%", rows="int8", model="lr", train_config=config, progress="off"
    )
    assert result.table["training_bytes"] == result.training_bytes
    with pytest.raises(ValueError, match="of row optimizers"):
        TrainConfig(gradient="dense", row_state="bf16")
    with pytest.raises(ValueError, match="row_square 'row' is of adam"):
        TrainConfig(optimizer="sgd", row_square="row")


def test_a_plan_counts_a_log_of_the_best_rows_as_a_byte_a_row() -> None:
    config = TrainConfig(max_epochs=1, evaluations_per_epoch=1, batch_size=64, best_weights="log")
    result = train_once(
        tiny_dataset(rows=200), method="hashed", budget="50%", model="lr", train_config=config, progress="off"
    )
    assert result.table["training_bytes"] == result.training_bytes
    by_kind = result.table["training_bytes_by_kind"]
    assert by_kind["best weights"] == by_kind["index"] + by_kind["rows"] // (16 * 4)
    with pytest.raises(ValueError, match="best_weights 'log' needs gradient 'row'"):
        TrainConfig(gradient="dense", best_weights="log")


def test_gradients_are_counted_where_they_are_as_large_as_the_table() -> None:
    counted = {}
    for gradient in ("row", "sparse", "dense"):
        planned = plan("hashed", VOCABULARIES, 8, "50%", options=TableOptions(gradient=gradient))  # type: ignore[arg-type]
        counted[gradient] = planned.training.by_kind()
    rows = counted["dense"]["rows"]
    assert counted["dense"]["gradient"] == rows
    assert "gradient" not in counted["row"]
    assert "gradient" not in counted["sparse"]
    assert counted["row"]["best weights"] == rows + counted["row"]["index"]
    assert 2 * rows <= counted["row"]["optimizer"] <= 2.2 * rows


def test_what_needs_more_is_infeasible_by_name_with_numbers() -> None:
    needed = plan("hashed", VOCABULARIES, 8, "50%").training.bytes
    assert plan("hashed", VOCABULARIES, 8, "50%", train_memory=needed).training.bytes == needed
    with pytest.raises(
        InfeasibleTraining, match=r"hashed: training takes .*best weights .*rows .* more than the"
    ) as caught:
        plan("hashed", VOCABULARIES, 8, "50%", train_memory=needed - 1)
    assert caught.value.needed.bytes == needed
    statuses = {e.method: e.status for e in plan_all(VOCABULARIES, 8, "50%", train_memory=needed + 1000)}
    assert (statuses["hashed"], statuses["optembed"]) == ("planned", "infeasible")
    with pytest.raises(ValueError, match="budget 'lots' is not understood"):
        plan_all(VOCABULARIES, 8, "50%", train_memory="lots")


def test_a_swap_keeps_to_it_as_well() -> None:
    model = nn.Sequential(nn.EmbeddingBag(1000, 8), nn.Linear(8, 1))
    taken = 32_000 * (1 / 4) * 4  # rows, dense gradients and two moments at a quarter of 32,000 bytes
    assert plan_swap(model, "unified", "25%", train_memory=int(taken * 1.01)).tables
    with pytest.raises(InfeasibleTraining, match="unified: training takes"):
        plan_swap(model, "unified", "25%", train_memory=int(taken * 0.9))
    assert plan_swap(model, "unified", "25%", rows="int8", gradient="row").tables[0].plan.options.rows == "int8"


def test_a_sweep_leaves_out_what_needs_more_than_its_largest_training_budget(tmp_path: Path) -> None:
    limited = 'train_budgets = ["60%", "500%"]\n' + CONFIG
    made = finished_sweep(tmp_path, limited)
    results = collect_results(made)
    section = sections_of(results)[0]
    limits = made.config.train_limits(section.full_bytes)
    assert list(limits) == ["60%", "500%"]
    tables = section_tables(section, limits)
    rows = tables["within-training"].rows
    assert [row[0].text for row in rows] == ["60%", "500%"]
    assert rows[0][5].sort <= limits["60%"] < rows[1][5].sort  # type: ignore[operator]
    assert "within-training" not in section_tables(section)
    lower = replace(made, config=made.config.model_copy(update={"train_budgets": ("60%",)}))
    assert [spec.hash for spec in lower.runs()] == [spec.hash for spec in made.runs()], "a limit changes no run"
    statuses = collect_results(lower)["status"].to_list()
    assert statuses.count("infeasible") > results["status"].to_list().count("infeasible")
    assert "ok" in statuses


def test_a_run_that_was_left_out_is_tried_again_under_another_limit(tmp_path: Path) -> None:
    spec = finished_sweep(tmp_path, CONFIG).runs()[0]
    record = {"status": "infeasible", "spec": json.loads(json.dumps(asdict(replace(spec, train_memory=10))))}
    assert _was_limited(record, spec)
    assert _was_limited(record, replace(spec, train_memory=20))
    assert not _was_limited(record, replace(spec, train_memory=10))
    assert not _was_limited({**record, "status": "ok"}, spec)


def test_rows_are_an_axis_of_a_run(tmp_path: Path) -> None:
    dataset = tiny_dataset(rows=200)
    config = TrainConfig(max_epochs=1, evaluations_per_epoch=1, batch_size=64)
    size = {}
    for rows in ("fp32", "int8"):
        result = train_once(
            dataset, method="unified", budget="50%", rows=rows, model="lr", train_config=config, progress="off"
        )
        assert result.table["rows"] == rows
        size[rows] = result.table["config"]["rows_per_table"]
    assert size["int8"] > 2 * size["fp32"]
    with pytest.raises(ValueError, match="no row format 'int9'; did you mean 'int8'"):
        train_once(dataset, method="unified", budget="50%", rows="int9", progress="off")

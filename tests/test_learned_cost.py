"""What learning a table's shape costs is counted over all stages, searches included, and reaches the sweep's rows."""

from __future__ import annotations

from typing import Any

import pytest
from training_helpers import counted, tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.sweep.results import _RESULT_KEYS
from rectab.tables import plan
from rectab.training import TrainConfig, train_once
from rectab.training.result import RunResult

DIM = 8
OPTIONS: dict[str, dict[str, Any]] = {"optembed": {"generations": 2, "population": 4}, "dnis": {}, "pruned": {}}
STAGES = {
    "optembed": ["supernet", "evolution", "retrain"],
    "dnis": ["warm start", "search", "fine-tune"],
    "pruned": ["train", "fine-tune"],
}


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(1500))


@pytest.fixture(scope="module", params=list(OPTIONS))
def result(request: pytest.FixtureRequest, dataset: PreparedDataset) -> RunResult:
    return train_once(
        dataset,
        method=request.param,
        budget="30%",
        method_options=OPTIONS[request.param],
        model="mlp",
        model_options={"hidden": (8,)},
        embedding_dim=DIM,
        train_config=TrainConfig(batch_size=256, max_epochs=1, precision="fp32"),
        progress="off",
    )


def test_seconds_are_those_of_all_stages(result: RunResult) -> None:
    assert [stage["stage"] for stage in result.stages] == STAGES[result.method]
    assert all(stage["seconds"] > 0 for stage in result.stages), "a search takes time too"
    assert result.train_seconds == pytest.approx(sum(stage["seconds"] for stage in result.stages))
    assert result.samples == sum(stage["samples"] for stage in result.stages)
    assert result.wall_seconds > result.train_seconds + result.evaluation_seconds


def test_training_bytes_are_the_full_tables_although_a_third_is_served(
    result: RunResult, dataset: PreparedDataset
) -> None:
    vocabularies = dataset.schema.vocabularies
    full = plan("full", vocabularies, DIM).serving.bytes
    assert result.budget_bytes is not None
    assert result.serving_bytes <= result.budget_bytes < full / 2
    largest = max(stage["table_training_bytes"] for stage in result.stages)
    assert result.training_bytes == largest >= 3 * full, "the rows and Adam's two moments"
    planned = plan(result.method, vocabularies, DIM, "30%", **OPTIONS[result.method])
    assert planned.training.bytes == pytest.approx(result.training_bytes, rel=0.02), "as the plan said"


def test_the_sweeps_rows_take_bytes_and_seconds_from_the_result() -> None:
    assert {"training_bytes", "train_seconds", "serving_bytes"} <= set(_RESULT_KEYS)

"""What a finished training says about its settings."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from training_helpers import tiny_dataset

from rectab.training import TrainConfig, render_result, train_once
from rectab.training.advice import advice

TRAIN = TrainConfig(batch_size=4096, max_epochs=3).to_json()


def stage(best: int, evaluations: int, steps: int = 21, name: str = "train") -> dict[str, Any]:
    return {"stage": name, "best_evaluation": best, "evaluations": evaluations, "steps": steps, "epochs": 3.0}


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        ([stage(6, 6)], ["still rising", "max_epochs (now 3)", "batch_size (an epoch is 7 steps of 4096 rows)"]),
        ([stage(6, 6, steps=3000)], ["still rising", "lr (now 0.001)"]),
        (
            [stage(1, 5)],
            ["best at the first of 5 evaluations", "embedding_l2 (now 0)", "evaluations_per_epoch (now 2)"],
        ),
        ([stage(3, 5)], []),
        ([stage(1, 1)], []),
        ([stage(0, 9, steps=0, name="search"), stage(6, 6, name="fine_tune")], ["stage 'fine_tune' ended"]),
    ],
)
def test_rising_to_the_end_and_best_at_the_start_are_told(stages: list[dict[str, Any]], parts: list[str]) -> None:
    told = advice(stages, TRAIN)
    assert len(told) == bool(parts)
    assert all(part in told[0] for part in parts)
    assert "batch_size" not in "".join(advice([stage(6, 6, steps=3000)], TRAIN)), "steps enough"


def test_one_epoch_is_not_epochs() -> None:
    assert "ended after 1 epoch with auc" in advice([{**stage(2, 2), "epochs": 1.0}], TRAIN)[0]


def test_a_result_shows_it_and_the_column_of_its_slices() -> None:
    config = TrainConfig(batch_size=300, max_epochs=2, lr=0.005, precision="fp32")
    result = train_once(tiny_dataset(900), method="full", model="lr", train_config=config, progress="off")
    console = Console(width=200)
    with console.capture() as shown:
        console.print(render_result(result))
    assert "id of item occurs in training" in shown.get()
    assert ("still rising" in shown.get()) == (result.stages[0]["best_evaluation"] == result.stages[0]["evaluations"])

"""Training settings: what is refused, and in which words."""

from __future__ import annotations

import pytest

from rectab.training import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_l2": "0.0x"}, "embedding_l2 must be a number, got '0.0x'"),
        ({"lr": float("nan")}, "lr must be a number, got nan"),
        ({"lr": True}, "lr must be a number, got True"),
        ({"row_lr": "fast"}, "row_lr must be a number, got 'fast'"),
        ({"max_epochs": 2.5}, "max_epochs must be a whole number, got 2.5"),
        ({"max_epochs": float("inf")}, "max_epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"optimizer": "lamb"}, "optimizer must be one of adam, adagrad, sgd"),
        ({"gradient": "sparse", "embedding_l2": 0.1}, "embedding_l2 needs gradient 'row' or 'dense'"),
        ({"monitor": "aucc"}, "monitor must be a sum of"),
        ({"learning_rate": 0.1}, "unknown key 'learning_rate'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_json(settings)


def test_settings_round_trip() -> None:
    config = TrainConfig(lr=1, clip_norm=None, row_lr=0.1)
    assert TrainConfig.from_json(config.to_json()) == config

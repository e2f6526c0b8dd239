"""docs/reference.md names every key that the code reads, and `rectab` knows every key of its training table."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

from rectab.data import recipe, recipe_parts, synthetic_options
from rectab.sweep import config as sweep_config
from rectab.tables.dnis import DNISConfig
from rectab.tables.optembed import OptEmbedConfig
from rectab.training import TrainConfig

REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
MODULES = (recipe, recipe_parts, synthetic_options, sweep_config)
MODELS = {
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__
}


def documented() -> set[str]:
    return set(re.findall(r"`([a-z_0-9.]+)`", REFERENCE))


@pytest.mark.parametrize("model", sorted(MODELS, key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_every_key_of_recipes_and_sweep_files_is_listed(model: type[BaseModel]) -> None:
    assert set(model.model_fields) - documented() == set()


@pytest.mark.parametrize("config", [TrainConfig, DNISConfig, OptEmbedConfig], ids=lambda c: c.__name__)
def test_every_setting_is_listed(config: type) -> None:
    assert {f.name for f in fields(config)} - {"budget_bytes"} - documented() == set()


def test_every_training_setting_that_is_listed_exists() -> None:
    table = REFERENCE.split("## Training settings")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z_0-9]+)` \|", table, flags=re.MULTILINE))
    assert listed == {f.name for f in fields(TrainConfig)}

"""docs/reference.md names every key that the code reads, and `rectab` knows every key of its training table."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

from rectab.data import recipe, recipe_files, recipe_parts, synthetic_options
from rectab.stream import config as stream_config
from rectab.stream.synthetic import SyntheticStream
from rectab.sweep import config as sweep_config
from rectab.sweep import entries as sweep_entries
from rectab.tables import TableMethod, methods
from rectab.training import TrainConfig

REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
MODULES = (recipe, recipe_files, recipe_parts, synthetic_options, sweep_config, sweep_entries, stream_config)
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


def test_every_key_of_a_synthetic_stream_is_listed() -> None:
    assert {f.name for f in fields(SyntheticStream)} - documented() == set()


def test_every_setting_is_listed() -> None:
    assert {f.name for f in fields(TrainConfig)} - documented() == set()


@pytest.mark.parametrize("method", methods(), ids=lambda m: m.name)
def test_every_method_and_option_is_listed(method: TableMethod) -> None:
    table = REFERENCE.split("## Options of the table methods")[1].split("\n## ")[0]
    assert f"| `{method.name}` |" in table
    assert method.option_hints().keys() - set(re.findall(r"`([a-z_0-9]+)`", table)) == set()


def test_every_training_setting_that_is_listed_exists() -> None:
    table = REFERENCE.split("## Training settings")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z_0-9]+)` \|", table, flags=re.MULTILINE))
    assert listed == {f.name for f in fields(TrainConfig)}

"""Files that are whole but wrong: anyone can compute a checksum. They are refused by name, before much is allocated."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import changed, contents, forge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from training_helpers import tiny_dataset

from rectab.models import CTRModel, ModelConfig
from rectab.schema import Vocabulary
from rectab.tables import get_method, load_table, methods, plan, save_table
from rectab.training import CheckpointError, TrainConfig, Trainer, load_model, save_model
from rectab.training.checkpoint import Checkpoints
from rectab.training.precision import peak_memory_bytes, reset_peak_memory
from rectab.training.state import load_state, save_state

OPTIONS = [("dnis", {"form": form}) for form in ("structured", "sparse")]
OPTIONS += [("optembed", {"pruned": "shared"}), ("unified", {"num_tables": 3}), *((m.name, {}) for m in methods())]
FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SMALL = 100 << 20


def loads_equal_or_is_refused(load: Callable[[Path], nn.Module], path: Path, tensors: dict[str, torch.Tensor]) -> None:
    reset_peak_memory()
    before = peak_memory_bytes()
    try:
        loaded, told = load(path).state_dict(), str(path)
    except ValueError as error:
        loaded, told = tensors, str(error)
    assert told.startswith(str(path))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in tensors.items())
    assert peak_memory_bytes() - before < SMALL


def small_vocabularies() -> list[Vocabulary]:
    return [Vocabulary(name, n, counts=np.arange(n, 0, -1)) for name, n in (("user", 300), ("item", 90))]


@pytest.mark.parametrize("serving", [False, True], ids=["training", "serving"])
@pytest.mark.parametrize(("method", "options"), OPTIONS)
def test_tables(method: str, options: dict[str, Any], serving: bool, tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    if method == "mgqe":  # 256 centroids are more than these vocabularies have ids
        options = {"centroids": (16, 4)}
    budget = None if get_method(method).fills == "one" else "60%"
    table = plan(method, small_vocabularies(), 8, budget, **options).build()
    save_table(table.serving() if serving else table, path)
    description, tensors = contents(path, "table")

    @FUZZ
    @given(changed(description))
    def fuzz(other) -> None:
        forge(path, "table", other, tensors)
        loads_equal_or_is_refused(load_table, path, tensors)

    fuzz()


@pytest.mark.parametrize(("interaction", "history"), [("dcnv2", "din"), ("dlrm", "mean"), ("wide_deep", "none")])
def test_models(interaction: str, history: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    schema = tiny_dataset(30).schema
    table = plan("unified", schema.vocabularies, 4, "60%").build()
    options = {"bottom": [6], "top": [5]} if interaction == "dlrm" else {"hidden": [6]}
    history_options = {"hidden": [4]} if history == "din" else {}
    save_model(CTRModel(schema, table, ModelConfig.from_options(interaction, history, options, history_options)), path)
    description, tensors = contents(path, "model")

    @FUZZ
    @given(changed(description))
    def fuzz(other) -> None:
        forge(path, "model", other, tensors)
        loads_equal_or_is_refused(load_model, path, tensors)

    fuzz()


def test_training_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on from a forged checkpoint or refuses it by name; it never ends in an error of Python's."""
    dataset, config = tiny_dataset(60), TrainConfig(batch_size=30, max_epochs=2, checkpoint_seconds=0, precision="fp32")

    def trainer() -> Trainer:
        table = plan("full", dataset.schema.vocabularies, 2).build()
        model = ModelConfig.from_options("lr", "none")
        return Trainer(dataset, table, model, config, checkpoints=tmp_path / "run", progress="off")

    whole = tmp_path / "whole"
    original = Checkpoints.save_current

    def save_and_keep(self: Checkpoints, *arguments: Any) -> None:
        original(self, *arguments)
        shutil.copytree(tmp_path / "run", whole, dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_current", save_and_keep)
        trainer().run("train")
    shutil.copy(tmp_path / "run" / "stage-000.safetensors", whole)
    files = {name: contents(whole / f"{name}.safetensors", "state") for name in ("current", "stage-000")}

    @settings(FUZZ, max_examples=50)
    @given(st.sampled_from(list(files)).flatmap(lambda name: st.tuples(st.just(name), changed(files[name][0]))))
    def fuzz(forged: tuple[str, Any]) -> None:
        name, description = forged
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(whole, tmp_path / "run")
        if name == "current":
            (tmp_path / "run" / "stage-000.safetensors").unlink()
        forge(tmp_path / "run" / f"{name}.safetensors", "state", description, files[name][1])
        with contextlib.suppress(CheckpointError):
            trainer().run("train")

    fuzz()


@pytest.mark.parametrize("state", [{"step": 17, "weights": torch.linspace(0, 1, 64)}, {"text": "x" * 200, "n": [1.5]}])
def test_any_flipped_bit_of_a_training_state_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "current.safetensors"
    save_state(path, state)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"current\.safetensors: .*delete its folder"):
            load_state(path)


def test_training_states_hold_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {"auc": float("nan"), "low": [float("-inf")]})
    found = load_state(tmp_path / "s")
    assert found["auc"] != found["auc"]
    assert found["low"] == [float("-inf")]

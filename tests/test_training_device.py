"""Devices by name, and batches that are sent one ahead; a GPU is stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from training_helpers import tiny_dataset
from typer.testing import CliRunner

from rectab.batch import Batch, Jagged
from rectab.cli import app
from rectab.models import ModelConfig
from rectab.tables import plan
from rectab.training import TrainConfig, Trainer, TrainingError
from rectab.training.device import batches_on, one_ahead, resolve_device
from rectab.training.losses import StepLosses


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"'{name}': torch finds no such GPU, there are none"):
            resolve_device(name)
    for name in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(ValueError, match="device must be cpu, cuda, cuda:NUMBER or auto"):
            resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_with_gpus_a_name_says_which() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"there are 2 \(cuda:0 to 1\)"):
        resolve_device("cuda:2")


def test_a_batch_is_sent_before_the_one_before_it_is_given() -> None:
    told: list[str] = []
    closed: list[bool] = []

    def source() -> Iterator[Any]:
        try:
            yield from range(4)
        finally:
            closed.append(True)

    def send(batch: Any) -> Any:
        told.append(f"send {batch}")
        return batch

    def arrive(batch: Any) -> Any:
        told.append(f"arrive {batch}")
        return batch

    taken = one_ahead(source(), send, arrive)
    assert next(taken) == 0
    assert told == ["send 0", "send 1", "arrive 0"]
    taken.close()
    assert closed == [True]
    assert list(one_ahead((batch for batch in range(3)), send, arrive)) == [0, 1, 2]
    assert list(one_ahead((batch for batch in ()), send, arrive)) == []


def test_on_the_cpu_batches_are_those_of_the_loader() -> None:
    train = tiny_dataset(60).train
    got = list(batches_on(torch.device("cpu"), train, 32, shuffle_seed=1))
    assert [len(batch) for batch in got] == [32, 28]


def test_a_batch_names_all_its_tensors() -> None:
    offsets, values = torch.tensor([0, 2]), torch.tensor([1, 2])
    batch = Batch(torch.zeros(1, 1), torch.zeros(1, 0), {"h": Jagged(values, offsets)}, torch.zeros(1))
    assert len(list(batch.tensors())) == 5
    assert any(tensor is offsets for tensor in batch.tensors())


def test_losses_are_read_at_once_on_the_cpu_and_seldom_on_a_gpu() -> None:
    one = torch.tensor(1.0)
    assert StepLosses(torch.device("cpu")).add(3, one, one + 1) == [(3, 1.0, 2.0)]
    seldom = StepLosses(torch.device("cuda", 0))
    told = [loss for step in range(100) for loss in seldom.add(step, one * step, one)]
    assert [loss.step for loss in told] == list(range(64))
    assert [loss.loss for loss in seldom.take()] == [float(step) for step in range(64, 100)]
    assert seldom.take() == []


def test_losses_that_are_read_late_are_added_up_the_same_and_still_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def trainer() -> Trainer:
        dataset = tiny_dataset(320)
        table = plan("full", dataset.schema.vocabularies, 4, None).build()
        config = TrainConfig(batch_size=32, max_epochs=2, precision="fp32")
        return Trainer(dataset, table, ModelConfig("lr"), config, progress="off")

    at_once, late = trainer(), trainer()
    at_once.fit()
    monkeypatch.setattr(StepLosses, "__init__", lambda self, device: self.__dict__.update(_steps_between=7, _kept=[]))
    late.fit()
    untimed = [[{k: v for k, v in r.items() if k != "seconds"} for r in t.history] for t in (at_once, late)]
    assert untimed[0] == untimed[1]
    diverged = trainer()
    with torch.no_grad():
        next(iter(diverged.model.dense_parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        diverged.fit()


def test_a_command_refuses_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dataset = tiny_dataset(60)
    with pytest.raises(ValueError, match="torch finds no such GPU"):
        Trainer(dataset, plan("full", dataset.schema.vocabularies, 4, None).build(), ModelConfig("lr"), TrainConfig(),
                device="cuda")  # fmt: skip
    for command in ("train", "sweep", "compress", "predict", "evaluate", "explain"):
        assert "--device" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output

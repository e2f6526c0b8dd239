"""Training in several processes: the numbers of one, one writer, checkpoints for any number, no hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes_worker as worker
import psutil
import pytest
import torch
from processes_helpers import prepared, torchrun, train_arguments, wait_for
from training_helpers import tiny_dataset

from rectab.batch import Share
from rectab.data.loader import batches
from rectab.models.dropout import Dropout
from rectab.processes import Processes, sharing
from rectab.schema import Vocabulary
from rectab.tables import TableMethod, methods, plan
from rectab.training import TrainConfig
from rectab.training.replicas import check_replicas
from rectab.training.stage import Stage

ELSEWHERE = [name for name, case in worker.CASES.items() if case.dies_at or case.shard or case.kept]
ELSEWHERE += [f"{chain}-whole" for chain in worker.CHAINS]
LONG = [name for name in worker.CASES if name.split("-")[0] in worker.BUDGETS]
SHORT = [name for name in worker.CASES if name not in LONG + ELSEWHERE]


def run_worker(out: Path, world: int, names: list[str], timeout: int = 900) -> list[int]:
    """Train the cases in ``world`` processes; their exit codes."""
    command = [sys.executable, str(Path(worker.__file__)), str(out), str(world), *names]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=timeout, check=False)
    codes: list[int] = json.loads((out / "codes.json").read_text())
    return codes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of processes, the folder of their results."""
    folders = {world: tmp_path_factory.mktemp(f"of-{world}") for world in (1, 2, 4)}
    for world, folder in folders.items():
        names = LONG + SHORT if world < 4 else LONG
        codes = run_worker(folder, world, names)
        assert codes == [0] * world, (folder / "log0.txt").read_text()
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG + SHORT)
def test_several_processes_train_as_one_does(trained: dict[int, Path], name: str) -> None:
    """Dropout and batch norm are on; the last batch of an epoch has three rows, of four processes one has none."""
    expected = np.load(trained[1] / f"{name}.npz")
    assert len(expected["losses"]) >= (200 if name in LONG else 50)
    assert np.std(expected["losses"]) > 1e-3  # something was learned, so that there is something to differ in
    for world in (2, 4) if name in LONG else (2,):
        found = np.load(trained[world] / f"{name}.npz")
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-3)
        for metric in ("auc", "gauc"):
            assert float(found[metric]) == pytest.approx(float(expected[metric]), abs=1e-4)
        digests = {(trained[world] / f"{name}.{rank}.txt").read_text() for rank in range(world)}
        assert len(digests) == 1  # replicas are the same to the bit


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_an_error(tmp_path: Path) -> None:
    assert run_worker(tmp_path, 3, ["killed"], timeout=120) == [1, 1, -signal.SIGKILL]
    assert "ProcessLost: another process of this run has ended" in (tmp_path / "log0.txt").read_text()


# The command line.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
def test_a_killed_run_ends_and_goes_on_in_another_number_of_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rectab import cli

    undisturbed = [*train_arguments(data, tmp_path / "whole"), "--set=train.checkpoint_seconds=1000"]
    whole = subprocess.run([sys.executable, "-m", "rectab", *map(str, undisturbed)], capture_output=True)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    run = torchrun(2, *train_arguments(data, out))
    wait_for(out / "checkpoints" / "current.safetensors")
    victim = next(p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1")
    victim.kill()
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "exitcode  : -9" in errors or "Signal 9" in errors
    again = torchrun(3, *train_arguments(data, out))  # it goes on, and is killed once more
    before = (out / "checkpoints" / "current.safetensors").stat().st_mtime_ns
    wait_for(out / "checkpoints" / "current.safetensors", after=before)
    psutil.Process(again.pid).children()[0].kill()
    again.communicate(timeout=120)
    assert again.returncode != 0
    steps = 0
    one_step = Stage._step

    def counted_step(self: Stage, batch: object) -> None:
        nonlocal steps
        steps += 1
        one_step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Stage, "_step", counted_step)
    monkeypatch.setattr(sys, "argv", ["rectab", *map(str, train_arguments(data, out))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert 0 < steps < results[0]["stages"][0]["steps"] == results[1]["stages"][0]["steps"]
    assert results[0]["samples"] == results[1]["samples"]
    for split in ("valid", "test"):
        assert results[1][split]["auc"] == pytest.approx(results[0][split]["auc"], abs=1e-3)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())


@pytest.mark.slow
def test_one_of_several_processes_prints_and_what_they_cannot_do_is_refused(data: Path, tmp_path: Path) -> None:
    short = ["train", data, "--dim", "4", "--set=train.max_epochs=1", "--json", "--no-test"]
    run = torchrun(2, *short)
    out, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert json.loads(out)["samples"] > 0
    for arguments, said in (
        ([*short, "--table", "dnis", "--budget", "50%"], "dnis trains in stages of its own"),
        (["describe", data], "describe is for one process"),
    ):
        run = torchrun(2, *arguments)
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 1
        assert said in errors


# Parts.


def test_shares_of_a_batch_join_to_the_batch() -> None:
    split = tiny_dataset(103).train
    whole = list(batches(split, 25, shuffle_seed=3))
    parts = [list(batches(split, 25, shuffle_seed=3, part=Processes(rank, 4, rank, None).share)) for rank in range(4)]
    for index, batch in enumerate(whole):
        shares = [part[index] for part in parts]
        assert torch.equal(torch.cat([share.ids for share in shares]), batch.ids)
        joined = torch.cat([share.histories["clicked_item"].values for share in shares])
        assert torch.equal(joined, batch.histories["clicked_item"].values)
        firsts = np.cumsum([0, *map(len, shares)])[:-1].tolist()
        assert [share.share for share in shares] == [Share(first, len(batch)) for first in firsts]
        assert {share.total for share in shares} == {len(batch)} == {batch.total}


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_part_of_a_batch_gets_its_part_of_the_dropout_mask(width: int) -> None:
    dropout, values = Dropout(0.3), torch.ones(11, width)
    torch.manual_seed(5)
    whole = dropout(values)
    assert 0 < int((whole == 0).sum()) < whole.numel()
    for first, last in ((0, 11), (0, 4), (4, 9), (9, 11), (7, 7)):
        torch.manual_seed(5)
        with sharing(Share(first, 11)):
            assert torch.equal(dropout(values[first:last]), whole[first:last])


def refused() -> set[str]:
    own = {m.name for m in methods() if m.needs_own_trainer or m.learns_from_validation or m.trained_as}
    return own | {"cafe", "cce", "dynamic", "dpq", "mgqe"}


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_what_learns_from_its_lookups_is_not_trained_in_several_processes(method: TableMethod) -> None:
    """Of the methods that are, lookups in training leave all that a table keeps as it is."""
    name = method.name
    if name in refused():
        with pytest.raises(ValueError, match=name):
            check_replicas(name, TrainConfig())
        return
    counts = np.arange(120, 0, -1)
    vocabularies = [Vocabulary("user", 120, counts=counts), Vocabulary("item", 40, counts=counts[:40])]
    table = plan(name, vocabularies, 8, None if method.fills == "one" else "60%").build()
    before = {key: tensor.clone() for key, tensor in table.state_dict().items()}
    table.train()(torch.randint(40, (64, 2)), torch.tensor([0, 1])).sum().backward()
    after = table.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)

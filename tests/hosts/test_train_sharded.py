"""Training over rows that torchrec shards gives the numbers of one process, and so does the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchrec")
pytestmark = [pytest.mark.host, pytest.mark.slow]

sys.path.insert(0, str(Path(__file__).parents[1]))

import processes_worker as worker  # noqa: E402
from processes_helpers import prepared, torchrun, train_arguments  # noqa: E402

from rectab.data import PreparedDataset  # noqa: E402
from rectab.metrics import auc  # noqa: E402
from rectab.training.artifact import load_model  # noqa: E402
from rectab.training.evaluation import predict  # noqa: E402

TWICE = "shard-fused-din"
SHARDED = [name for name, case in worker.CASES.items() if case.shard and not case.kept and name != TWICE]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of processes, the folder of their results; of three, one holds no shard of two tables."""
    folders = {world: tmp_path_factory.mktemp(f"of-{world}") for world in (1, 2, 3)}
    for world, folder in folders.items():
        command = [sys.executable, str(Path(worker.__file__)), str(folder), str(world), *SHARDED]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=900, check=False)
        codes = json.loads((folder / "codes.json").read_text())
        assert codes == [0] * world, "\n".join(p.read_text()[-3000:] for p in sorted(folder.glob("log*.txt")))
    return folders


@pytest.mark.parametrize("name", SHARDED)
def test_shards_train_as_one_process_does(trained: dict[int, Path], name: str) -> None:
    expected = np.load(trained[1] / f"{name}.npz")
    for world in (2, 3):
        found = np.load(trained[world] / f"{name}.npz")
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-3)
        assert float(found["auc"]) == pytest.approx(float(expected["auc"]), abs=1e-4)
        digests = {(trained[world] / f"{name}.{rank}.txt").read_text() for rank in range(world)}
        assert len(digests) == 1


def alone(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rectab", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(run: subprocess.Popen[str], out: Path) -> dict[str, Any]:
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


OF_SHARDS = ["--set=train.embedding_l2=0.001", "--set=train.max_epochs=3", "--dim", 8]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(alone(*train_arguments(data, out), *OF_SHARDS, "--set=train.checkpoint_seconds=1000"), out)
    return out


@pytest.mark.parametrize("chain", worker.CHAINS)
def test_a_run_that_stops_goes_on_in_another_layout(tmp_path: Path, chain: str) -> None:
    """Rows, moments, the steps that rows have seen and the best weights come back: it is the undisturbed run."""
    starts = worker.CHAINS[chain]
    names = [f"{chain}-whole@1", *(f"{chain}-{number}@{count}" for number, (count, _, _) in enumerate(starts))]
    command = [sys.executable, str(Path(worker.__file__)), str(tmp_path), "1", *names]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=900, check=False)
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert codes == [0] * starts[-1][0], "\n".join(p.read_text()[-3000:] for p in sorted(tmp_path.glob("log*.txt")))
    expected, found = (np.load(tmp_path / f"{chain}-{one}.npz") for one in ("whole", len(starts) - 1))
    before = sum(steps or 0 for _, _, steps in starts)
    assert 0 < len(found["losses"]) == len(expected["losses"]) - before
    np.testing.assert_allclose(found["losses"], expected["losses"][before:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-3)


def test_the_command_shards_and_leaves_what_one_process_leaves(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [*train_arguments(data, out), *OF_SHARDS, "--set=train.checkpoint_seconds=1000"]
    result, expected = (
        finished(torchrun(2, *arguments, "--shard", "auto"), out),
        json.loads((whole / "result.json").read_text()),
    )
    for split in ("valid", "test"):
        assert result[split]["auc"] == pytest.approx(expected[split]["auc"], abs=1e-3)
    assert result["serving_bytes"] == expected["serving_bytes"]
    assert result["stages"][0]["table_bytes"] < expected["stages"][0]["table_bytes"]
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    dataset, model = PreparedDataset.open(data), load_model(out / "model.safetensors")
    logits = predict(model, dataset.valid)
    assert auc(dataset.valid.labels, logits) == pytest.approx(result["valid"]["auc"], abs=1e-9)
    smaller = alone("compress", data, out, "--budget", "30%", "--out", tmp_path / "smaller")
    _, errors = smaller.communicate(timeout=300)
    assert smaller.returncode == 0, errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fused-optimizer"], "add --shard"),
        (["--shard", "auto", "--fused-optimizer", "--set=train.embedding_l2=0.1"], "embedding_l2 is not for fused_opt"),
        (["--shard", "auto", "--fused-optimizer", "--set=train.clip_norm=1"], "clip_norm is not for fused_optimizer"),
        (["--shard", "auto", "--fused-optimizer"], "FBGEMM has no fused Adam on the CPU"),
        (["--shard", "column_wise", "--set=train.optimizer=adagrad"], "column_wise cuts rows"),
    ],
)
def test_what_shards_cannot_do_is_refused(data: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    run = torchrun(2, *train_arguments(data, tmp_path / "run"), *arguments)
    _, errors = run.communicate(timeout=300)
    assert run.returncode != 0
    assert said in " ".join(errors.split())

"""Training over rows that torchrec shards gives the numbers of one process, and so does the command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchrec")
pytestmark = [pytest.mark.host, pytest.mark.slow]

sys.path.insert(0, str(Path(__file__).parents[1]))

import processes_worker as worker  # noqa: E402

from rectab.data import Recipe, prepare  # noqa: E402

SHARDED = [name for name, case in worker.CASES.items() if case.shard]


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


def test_the_command_shards_and_writes_the_whole_table(tmp_path: Path) -> None:
    synthetic = {"rows": 3000, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}
    data = prepare(Recipe.model_validate({"name": "small", "synthetic": synthetic}), None, tmp_path / "small").path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"--set=train.{key}" for key in ("max_epochs=1", "batch_size=128", "precision=fp32")]
    settings.append("--set=model.activation=sigmoid")
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m", "rectab"]
    results = []
    for start, own in ((["rectab"], []), (launcher, ["--shard", "auto"])):
        out = tmp_path / f"of-{len(results)}"
        command = [sys.executable, "-m", *start, "train", str(data), "--out", str(out), "--dim", "8", *settings, *own]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((out / "result.json").read_text()))
    for split in ("valid", "test"):
        assert results[1][split]["auc"] == pytest.approx(results[0][split]["auc"], abs=1e-3)
    assert results[1]["serving_bytes"] == results[0]["serving_bytes"]
    assert results[1]["stages"][0]["table_bytes"] < results[0]["stages"][0]["table_bytes"]

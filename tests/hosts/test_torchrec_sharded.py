"""rectab tables sharded by torchrec's planner over gloo processes, against one process without torchrec's sharding."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchrec")
pytestmark = [pytest.mark.host, pytest.mark.slow]

import torchrec_worker as worker  # noqa: E402
from test_torchrec import bags, features  # noqa: E402
from torch import nn  # noqa: E402
from torchrec import EmbeddingCollection, EmbeddingConfig  # noqa: E402

from rectab.swap.torchrec import plan_collection, shardable  # noqa: E402
from rectab.tables import TableOptions  # noqa: E402

STEPS = 6
VOCABULARY_OF = {"user": "t_user", "item": "t_item", "history": "t_item", "city": "t_city"}


def launch(out: Path, world: int, *arguments: str, timeout: int = 150) -> list[int]:
    """Run the worker on ``world`` processes; their exit codes. Raises TimeoutExpired if one hangs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    common |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(world)}
    command = [sys.executable, str(Path(worker.__file__)), str(out), *arguments]
    logs = [(out / f"log{rank}.txt").open("w") for rank in range(world)]
    processes = [
        subprocess.Popen(
            command, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=logs[r], stderr=subprocess.STDOUT
        )
        for r in range(world)
    ]
    try:
        return [process.wait(timeout=timeout) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()


def losses_of(out: Path) -> list[float]:
    return json.loads((out / "losses.json").read_text())


def one_process(method: str, steps: int = STEPS) -> list[float]:
    """The same model and batches, in this process, with plain SGD."""
    model, _ = worker.build(method)
    optimizer = torch.optim.SGD(model.parameters(), lr=worker.RATE)
    losses = []
    for step in range(steps):
        dense, sparse, labels = worker.batch(step, 0, 1)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(dense, sparse).squeeze(1), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("method", "sharding", "world"),
    [
        ("full", "table_wise", 2),
        ("unified", "data_parallel", 2),
        ("unified", "column_wise", 2),
        ("hashed", "column_wise", 4),
    ],
)
def test_same_losses_as_one_process(method: str, sharding: str, world: int, tmp_path: Path) -> None:
    codes = launch(tmp_path, world, method, sharding, str(STEPS))
    assert codes == [0] * world, (tmp_path / "log0.txt").read_text()[-3000:]
    expected = one_process(method)
    assert losses_of(tmp_path) == pytest.approx(expected, rel=1e-4)
    assert expected[4] < expected[0], "the first batch comes again at step 4 and must have been learned from"


def test_resumes_from_a_checkpoint_with_another_number_of_processes(tmp_path: Path) -> None:
    assert launch(tmp_path, 2, "hashed", "column_wise", str(STEPS), "--save-at", "3") == [0, 0]
    whole = losses_of(tmp_path)
    assert launch(tmp_path, 4, "hashed", "table_wise", str(STEPS), "--resume") == [0] * 4
    assert losses_of(tmp_path) == pytest.approx(whole[3:], rel=1e-4)
    damaged = tmp_path / "checkpoint" / "rank-00001-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert all(launch(tmp_path, 2, "hashed", "column_wise", str(STEPS), "--resume"))
    assert "damaged or missing" in "".join(p.read_text() for p in tmp_path.glob("log*.txt"))


def test_a_killed_rank_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    codes = launch(tmp_path, 2, "unified", "column_wise", "100", "--save-at", "2", "--die-at", "4", timeout=90)
    assert codes[1] == -9
    assert codes[0] not in (0, -9)
    assert launch(tmp_path, 2, "unified", "column_wise", str(STEPS), "--resume") == [0, 0]
    assert losses_of(tmp_path) == pytest.approx(one_process("unified")[2:], rel=1e-4)


@pytest.mark.parametrize("method", ["full", "hashed", "unified"])
@pytest.mark.parametrize("weighted", [False, True])
def test_unsharded_bags_equal_the_rectab_table(method: str, weighted: bool) -> None:
    module = shardable(bags(weighted), method, None if method == "full" else "25%")
    table = module.planned.build()
    module.copy_rows_from(table)
    pooled = module(features(weighted=weighted))
    for key, jagged in features(weighted=weighted).to_dict().items():
        bag = table.bag(VOCABULARY_OF[key], "sum", include_last_offset=True)
        torch.testing.assert_close(pooled[key], bag(jagged.values(), jagged.offsets(), jagged.weights_or_none()))
    assert all(name.endswith(".weight") for name, _ in module.named_parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    module.copy_rows_to(table)
    torch.testing.assert_close(module(features(weighted=weighted))["user"], 2 * pooled["user"])
    user = features(weighted=weighted)["user"]
    bag = table.bag("t_user", "sum", include_last_offset=True)
    torch.testing.assert_close(2 * pooled["user"], bag(user.values(), user.offsets(), user.weights_or_none()))


@pytest.mark.parametrize("method", ["full", "hashed", "unified"])
def test_unsharded_sequences_equal_the_rectab_table(method: str) -> None:
    configs = [
        EmbeddingConfig(name="t_item", embedding_dim=8, num_embeddings=2000, feature_names=["item", "history"]),
        EmbeddingConfig(name="t_city", embedding_dim=8, num_embeddings=40, feature_names=["city"]),
    ]
    module = shardable(EmbeddingCollection(tables=configs), method, None if method == "full" else "25%")
    table = module.planned.build()
    module.copy_rows_from(table)
    for key, jagged in module(features()).items():
        ids = features()[key]
        torch.testing.assert_close(jagged.values(), table.embedding(VOCABULARY_OF[key])(ids.values()))
        assert torch.equal(jagged.lengths(), ids.lengths())


def test_unseen_ids_and_refusals() -> None:
    wrong = features()
    wrong.values()[-1] = 40  # city has 40 ids
    with pytest.raises(IndexError, match="outside its vocabulary"):
        shardable(bags(), "full", None)(wrong)
    module = shardable(bags(), "full", None, options=TableOptions(unseen="shared"))
    assert torch.isfinite(module(wrong).values()).all()
    with pytest.raises(ValueError, match="unseen='zero'"):
        shardable(bags(), "full", None, options=TableOptions(unseen="zero"))
    mixed = [*bags().embedding_bag_configs()]
    mixed[0].embedding_dim = 16
    with pytest.raises(ValueError, match="widths"):
        plan_collection(mixed)

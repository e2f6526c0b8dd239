"""rectab tables sharded by torchrec's planner over gloo processes, against one process without torchrec's sharding."""

from __future__ import annotations

import json
import os
import signal
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


def launch(out: Path, world: int, *arguments: str, timeout: int = 480) -> list[int]:
    """Run the worker on ``world`` processes; their exit codes. Raises TimeoutExpired if one hangs."""
    command = [sys.executable, str(Path(worker.__file__)), str(out), *arguments, "--world", str(world)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, output[-3000:]
    return json.loads((out / "codes.json").read_text())


def losses_of(out: Path) -> list[float]:
    return json.loads((out / "losses.json").read_text())


def log_of(out: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(out.glob("log*.txt")))


def one_process(
    method: str, adagrad: bool = False, steps: int = STEPS, row_adam: bool = False, unpooled: bool = False
) -> list[float]:
    """The same model and batches, in this process, with torch's own optimizers."""
    model, _ = worker.build(method, unpooled)
    kind, arguments = (torch.optim.Adam, worker.ROW_ADAM) if row_adam else worker.optimizer_of(adagrad)
    rows = kind(model.sparse_arch.parameters(), **arguments)
    dense_parameters = [p for name, p in model.named_parameters() if "sparse_arch" not in name]
    optimizer = torch.optim.SGD(dense_parameters, lr=worker.RATE)
    losses = []
    for step in range(steps):
        dense, sparse, labels = worker.batch(step, 0, 1)
        model.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(dense, sparse).squeeze(1), labels)
        loss.backward()
        optimizer.step()
        rows.step()
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
    assert codes == [0] * world, log_of(tmp_path)
    expected = one_process(method)
    assert losses_of(tmp_path) == pytest.approx(expected, rel=1e-4)
    assert expected[4] < expected[0], "the first batch comes again at step 4 and must have been learned from"


@pytest.mark.parametrize(
    ("method", "sharding", "world", "unpooled"),
    [("full", "table_wise", 2, True), ("hashed", "table_wise", 4, False), ("unified", "column_wise", 2, True)],
)
def test_each_process_steps_its_shards_with_our_row_optimizer(
    method: str, sharding: str, world: int, unpooled: bool, tmp_path: Path
) -> None:
    """L2 is of the whole table: rows that no batch reads decay as well, and replay their steps when they are read."""
    steps = 12
    arguments = ["--row-adam", *(["--unpooled"] if unpooled else [])]
    assert launch(tmp_path, world, method, sharding, str(steps), *arguments) == [0] * world, log_of(tmp_path)
    expected = one_process(method, steps=steps, row_adam=True, unpooled=unpooled)
    assert losses_of(tmp_path) == pytest.approx(expected, rel=1e-4)
    assert expected[8] < expected[0]


def test_resumes_from_a_checkpoint_with_another_number_of_processes(tmp_path: Path) -> None:
    """With Adagrad: the state of the row optimizer has to come back too, or the losses differ."""
    adagrad = (str(STEPS), "--adagrad")
    assert launch(tmp_path, 2, "hashed", "column_wise", *adagrad, "--save-at", "3") == [0, 0], log_of(tmp_path)
    whole = losses_of(tmp_path)
    assert whole == pytest.approx(one_process("hashed", adagrad=True), rel=1e-4)
    assert launch(tmp_path, 4, "hashed", "table_wise", *adagrad, "--resume") == [0] * 4, log_of(tmp_path)
    assert losses_of(tmp_path) == pytest.approx(whole[3:], rel=1e-4)
    damaged = tmp_path / "checkpoint" / "rank-00001-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert all(launch(tmp_path, 2, "hashed", "column_wise", *adagrad, "--resume"))
    assert "damaged or missing" in log_of(tmp_path)


def test_a_killed_rank_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    codes = launch(tmp_path, 2, "unified", "column_wise", "100", "--save-at", "2", "--die-at", "4")
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL)
    assert launch(tmp_path, 2, "unified", "column_wise", str(STEPS), "--resume") == [0, 0], log_of(tmp_path)
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

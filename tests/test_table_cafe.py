"""CAFE: its sketch finds what is large, rows move with their state, and what is served is what was trained."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_checkpoints import comparable
from torch import Tensor
from training_helpers import run_with_kills, tiny_dataset

from rectab.ops import hash_rows
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, load_table, plan, save_table
from rectab.tables.cafe.sketch import HotSketch
from rectab.training import RunResult, TrainConfig, train_once

SIZES = (1500, 400, 3)


def stream(seed: int, ids: int = 3000, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Keys, small ones often, and scores."""
    generator = torch.Generator().manual_seed(seed)
    keys = (torch.rand(batch, generator=generator) ** 6 * ids).long()
    return keys, 0.5 + torch.rand(batch, generator=generator)


def space_saving(batches: list[tuple[Tensor, Tensor]], rows: int, salt: int) -> dict[int, dict[int, float]]:
    """Bucket -> key -> score, one key after another."""
    buckets: dict[int, dict[int, float]] = defaultdict(dict)
    for keys, scores in batches:
        total: dict[int, float] = defaultdict(float)
        for key, score in zip(keys.tolist(), scores.tolist(), strict=True):
            total[key] += score
        known = {k for bucket in buckets.values() for k in bucket}
        for key, score in sorted(total.items(), key=lambda item: (item[0] not in known, item[1])):
            bucket = buckets[int(hash_rows(torch.tensor(key), salt, rows))]
            if key in bucket:
                bucket[key] += score
            elif len(bucket) < 4:
                bucket[key] = score
            else:
                weakest = min(bucket, key=lambda k: bucket[k])
                bucket[key] = bucket.pop(weakest) + score
    return buckets


def test_a_sketch_is_space_saving_in_every_bucket() -> None:
    sketch, batches = HotSketch(20, torch.int32, False, 5, "cpu"), [stream(seed) for seed in range(12)]
    for keys, scores in batches:
        sketch.insert(keys, keys, scores)
    expected = space_saving(batches, 20, 5)
    for number in range(20):
        kept = {int(k): float(s) for k, s in zip(sketch.key[number], sketch.score[number], strict=True) if k >= 0}
        assert kept == pytest.approx(expected[number], rel=1e-4)
    assert float(sketch.added) == pytest.approx(sum(float(s.sum()) for _, s in batches), rel=1e-6)


def test_rows_are_owned_by_the_largest_scores_and_an_owner_is_not_pushed_out_of_its_bucket() -> None:
    sketch, totals = HotSketch(50, torch.int64, True, 0, "cpu"), torch.zeros(3000)
    for seed in range(40):
        keys, scores = stream(seed)
        totals.index_add_(0, keys, scores)
        sketch.insert(keys, keys + 7, scores)
        sketch.exchange(0.0)
    owned = sketch.key[sketch.row >= 0]
    assert sorted(sketch.row[sketch.row >= 0].tolist()) == list(range(50)), "every row has one owner"
    assert totals[owned].sum() > 0.9 * totals.topk(50).values.sum()
    assert torch.equal(sketch.home[sketch.row >= 0].long(), owned + 7)
    for seed in range(20):
        keys = torch.randint(3000, 100_000, (500,), generator=torch.Generator().manual_seed(seed))
        sketch.insert(keys, keys, torch.full((500,), 0.01))
    assert (sketch.find(owned) >= 0).all()


def test_a_threshold_takes_rows_from_whoever_has_decayed_below_it() -> None:
    sketch, keys = HotSketch(10, torch.int32, False, 0, "cpu"), torch.arange(30)
    sketch.insert(keys, keys, torch.where(keys < 6, 2.0, 0.1))
    sketch.exchange(1.5)
    assert sorted(sketch.key[sketch.row >= 0].tolist()) == list(range(6))
    sketch.added.fill_(1e9)
    sketch.decay(0.5)
    assert sketch.exchange(1.5)[0].numel() == 0
    assert not (sketch.row >= 0).any()
    assert float(sketch.added) == 0.0


def table_of(hashed: bool = False, **options: Any) -> Any:
    vocabularies = [Vocabulary(n, size, hashed=hashed and size > 3) for n, size in zip("abc", SIZES, strict=True)]
    return plan("cafe", vocabularies, 8, "15%", options=TableOptions(init_std=0.1, **options), every=5).build()


def step_of(table: Any, optimizer: Any, step: int, shift: int = 0) -> None:
    drawn = torch.rand(256, 3, generator=torch.Generator().manual_seed(step)) ** 5
    ids = ((drawn * torch.tensor(SIZES)).long() + shift) % torch.tensor(SIZES)
    optimizer.zero_grad()
    (table(ids, torch.arange(3)) - ids.unsqueeze(-1).float().sin()).square().mean().backward()
    optimizer.step()
    table.after_step(step, optimizer if isinstance(optimizer, RowAdam) else None)


@torch.no_grad()
def vectors(table: EmbeddingTable) -> Tensor:
    return torch.cat([table(torch.arange(n), vocabulary) for vocabulary, n in enumerate(SIZES)])


@pytest.mark.parametrize("rows", ["fp32", "int8"])
@pytest.mark.parametrize("hashed", [False, True])
def test_a_row_moves_with_its_state_and_no_vector_changes(rows: str, hashed: bool) -> None:
    table = table_of(hashed, rows=rows)
    optimizer = RowAdam(table.row_stores(), 0.05)
    for step in range(1, 5):
        step_of(table, optimizer, step)
    moments = optimizer.rows["store"].state["square"].clone()
    before = vectors(table)
    assert not (table.sketch.row >= 0).any()
    table.after_step(5, optimizer)
    assert torch.equal(vectors(table), before)
    owners = (table.sketch.row >= 0).sum()
    assert owners > 10
    for key, row in zip(table.sketch.key.flatten().tolist(), table.sketch.row.flatten().tolist(), strict=True):
        if row >= 0 and not hashed:
            id_, vocabulary = (key, 0) if key < SIZES[0] else (key - SIZES[0], 1)
            home = int(table.address(torch.tensor(id_), torch.tensor(vocabulary)))
            assert torch.equal(optimizer.rows["own"].state["square"][row], moments[home])
    for step in range(6, 60):
        step_of(table, optimizer, step, shift=200)  # other ids come into fashion
    fashionable = table.find(table.keys(torch.arange(200, 210), torch.zeros(10, dtype=torch.int64)))
    assert (fashionable >= 0).sum() >= 6


@pytest.mark.parametrize("hashed", [False, True])
def test_what_is_served_is_what_was_trained(hashed: bool, tmp_path: Path) -> None:
    table = table_of(hashed)
    optimizer = RowAdam(table.row_stores(), 0.05)
    for step in range(1, 40):
        step_of(table, optimizer, step)
    served = table.serving()
    assert torch.equal(vectors(served), vectors(table))
    outside = torch.tensor([-1, 2**40, SIZES[0], -(2**63)])
    assert torch.equal(served(outside, 0), table(outside, 0))
    save_table(served, tmp_path / "t.safetensors")
    assert torch.equal(vectors(load_table(tmp_path / "t.safetensors")), vectors(table))
    program = torch.export.export(served.eval(), (torch.arange(5), torch.zeros(5, dtype=torch.int64)))
    ids = torch.tensor([0, 3, 1, 1499, 77])
    assert torch.equal(program.module()(ids, torch.zeros(5, dtype=torch.int64)), table(ids, 0))


def test_a_loss_that_is_scaled_promotes_the_same_ids() -> None:
    found = []
    for scale in (1.0, 1024.0):
        table = table_of()
        optimizer = torch.optim.SGD([p for p in table.parameters() if p.requires_grad], lr=0.0)
        for step in range(1, 11):
            ids = (torch.rand(256, 3, generator=torch.Generator().manual_seed(step)) * torch.tensor(SIZES)).long()
            (scale * table(ids, torch.arange(3)).square().mean()).backward()
            for store in (table.store, table.own):
                store.gradients.drop()
            optimizer.zero_grad()
            table.after_step(step, None)
        found.append(table.sketch.key[table.sketch.row >= 0].tolist())
    assert found[0] == found[1] != []


def run(out_dir: Path | None) -> RunResult:
    torch.set_num_threads(1)
    config = TrainConfig(
        batch_size=100, lr=0.01, max_epochs=2, embedding_l2=0.001, checkpoint_seconds=0.0, precision="fp32"
    )
    return train_once(
        tiny_dataset(800),
        method="cafe",
        budget="40%",
        method_options={"whole_below": 10, "every": 3},
        model="mlp",
        history="mean",
        model_options={"hidden": (8,)},
        embedding_dim=4,
        train_config=config,
        out_dir=out_dir,
        progress="off",
    )


def test_interrupted_it_goes_on_to_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(None)
    resumed, calls = run_with_kills(monkeypatch, 7, lambda: run(tmp_path / "run"))
    assert calls > 7
    assert comparable(resumed) == comparable(undisturbed)

"""CCE: clusters are found, a clustering changes vectors little, and rows start again with their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_checkpoints import comparable
from torch import Tensor
from training_helpers import counted, run_with_kills, tiny_dataset

from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, load_table, plan, save_table
from rectab.training import RunResult, TrainConfig, train_once

IDS, GROUPS = 600, 8


def table_of(budget: str = "40%", **options: Any) -> Any:
    vocabularies = [Vocabulary("a", IDS), Vocabulary("b", 5)]
    return plan("cce", vocabularies, 8, budget, options=TableOptions(init_std=0.1), **options).build()


@torch.no_grad()
def vectors(table: Any) -> Tensor:
    return table(torch.arange(IDS), 0)


def wanted(ids: Tensor) -> Tensor:
    """Ids of eight groups want eight vectors, whatever they are hashed to."""
    books = torch.randn(GROUPS, 8, generator=torch.Generator().manual_seed(5))
    return books[ids * 7 % GROUPS]


def train(table: Any, optimizer: RowAdam, steps: int, seed: int = 0) -> float:
    loss = torch.tensor(0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        ids = torch.randint(IDS, (256,), generator=generator)
        optimizer.zero_grad()
        loss = (table(ids, 0) - wanted(ids)).square().mean()
        loss.backward()
        optimizer.step()
        table.after_step(step, optimizer)
    return loss.item()


def test_clusters_are_found_and_help() -> None:
    """By hashing no row is of one group; every clustering finds more of them."""
    losses = {}
    for clusterings in (0, 4):
        table = table_of("30%", clusterings=clusterings, every=20.0, num_chunks=1)
        optimizer = RowAdam(table.row_stores(), lr=0.03)
        losses[clusterings] = train(table, optimizer, 400)
    assert losses[4] < 0.6 * losses[0]
    groups = torch.arange(IDS) * 7 % GROUPS
    pointers = table.pointer[:IDS, 0].long()
    purity = sum(int(torch.bincount(groups[pointers == row], minlength=GROUPS).max()) for row in pointers.unique())
    assert purity > 0.5 * IDS


@torch.no_grad()
def test_a_clustering_keeps_vectors_near_and_starts_rows_again() -> None:
    table = table_of()
    optimizer = RowAdam(table.row_stores(), lr=0.05)
    with torch.enable_grad():
        train(table, optimizer, 30)
    before, small = vectors(table), table(torch.arange(5), 1)
    assert optimizer.rows["centroid"].state["square"].any()
    table.cluster("again", optimizer)
    error = (vectors(table) - before).square().mean() / before.square().mean()
    assert error < 0.5
    assert torch.equal(table(torch.arange(5), 1), small), "a vocabulary with a row an id is not clustered"
    first = int(table.first_row[1]) * table.config.num_chunks
    assert not optimizer.rows["centroid"].state["square"][:first].any()
    residual = table.residual.read(slice(None))
    assert torch.isfinite(residual).all()


def test_a_place_that_no_id_is_hashed_to_is_zero_and_not_nan() -> None:
    table = table_of("90%")
    with torch.no_grad():
        table.cluster("again", None)
        first = int(table.first_row[1]) * table.config.num_chunks
        rows = table.residual.read(slice(0, first))
        assert torch.isfinite(rows).all()
        assert (rows == 0).all(1).any()


def test_pointers_are_counted_and_saved(tmp_path: Path) -> None:
    table = table_of()
    ledger = {entry.component: entry.bytes for entry in table.ledger()}
    assert ledger["pointer"] == 605 * 2 * table.pointer.element_size()
    train(table, RowAdam(table.row_stores(), lr=0.05), 10)
    save_table(table, tmp_path / "t.safetensors")
    assert torch.equal(vectors(load_table(tmp_path / "t.safetensors")), vectors(table))
    with pytest.raises(ValueError, match="num_chunks 3 does not divide"):
        table_of(num_chunks=3)


def run(out_dir: Path | None) -> RunResult:
    torch.set_num_threads(1)
    config = TrainConfig(
        batch_size=100, lr=0.01, max_epochs=2, embedding_l2=0.001, checkpoint_seconds=0.0, precision="fp32"
    )
    return train_once(
        counted(tiny_dataset(800)),
        method="cce",
        budget="90%",
        method_options={"every": 0.5},
        model="mlp",
        model_options={"hidden": (8,)},
        embedding_dim=8,
        train_config=config,
        out_dir=out_dir,
        progress="off",
    )


def test_interrupted_it_goes_on_to_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(None)
    resumed, calls = run_with_kills(monkeypatch, 7, lambda: run(tmp_path / "run"))
    assert calls > 7
    assert comparable(resumed) == comparable(undisturbed)

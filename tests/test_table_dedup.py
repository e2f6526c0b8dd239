"""Deduplication: which blocks give way to which, what is served, and training on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_helpers import tiny_dataset

from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, load_table, plan, save_table
from rectab.tables.block_sharing import leaders_of
from rectab.tables.dedup import DedupConfig, DedupTable
from rectab.tables.files import read_file, write_file
from rectab.tables.io import FORMAT_VERSION
from rectab.training import TrainConfig, train_once

VOCABULARIES = [Vocabulary("a", 1000), Vocabulary("b", 37)]


def table_of(kept: int, block: int = 5) -> DedupTable:
    table = build_table("dedup", VOCABULARIES, 4, DedupConfig(kept, block), TableOptions(init_std=0.1)).eval()
    assert isinstance(table, DedupTable)
    return table


@pytest.mark.parametrize("keep", [1, 2, 7, 99, 100])
def test_exactly_as_many_blocks_are_kept_as_asked_and_the_nearest_share(keep: int) -> None:
    """Seven clusters, far apart: with seven kept, each block reads one of its own cluster."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(7, 6, generator=generator)
    cluster = torch.arange(100) % 7
    blocks = centres[cluster] + 0.01 * torch.randn(100, 6, generator=generator)
    leader = leaders_of(blocks, keep)
    assert leader.unique().numel() == keep
    assert torch.equal(leader[leader], leader)
    assert torch.equal(leader, leaders_of(blocks, keep))
    if keep >= 7:
        assert torch.equal(cluster[leader], cluster)


def test_blocks_that_are_equal_are_held_once_and_nothing_is_lost() -> None:
    table = table_of(kept=20)
    pattern = torch.randn(20, 5, 4, generator=torch.Generator().manual_seed(1))
    rows = pattern[torch.arange(208) % 20].flatten(0, 1)
    table.store.write(slice(0, 1000), rows[:1000])
    table.store.write(slice(1000, 1037), rows[1000:1037])  # 8 blocks, of which the last is cut
    table.store.write(slice(1035, 1037), torch.zeros(2, 4))
    pattern[7] = 0.0
    served = table.serving().eval()
    for vocabulary, size in ((0, 1000), (1, 35)):
        ids = torch.arange(size)
        expected = table(ids, vocabulary)
        whole = (ids // 5 % 20 != 7) | (vocabulary == 1)
        torch.testing.assert_close(served(ids, vocabulary)[whole], expected[whole])
    assert served.ledger().bytes == table.planned_serving().bytes == 20 * 5 * 4 * 4 + 208 + 16


def test_without_sharing_the_vectors_are_those_of_the_full_table() -> None:
    table = table_of(kept=208)
    served = table.serving().eval()
    for vocabulary, size in ((0, 1000), (1, 37)):
        assert torch.equal(served(torch.arange(size), vocabulary), table(torch.arange(size), vocabulary))


def test_a_file_that_names_blocks_which_are_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_table(table_of(kept=30).serving(), path)
    description, tensors = read_file(path, "table", FORMAT_VERSION)
    tensors["reads_block"][3] = 30
    write_file(path, "table", FORMAT_VERSION, description, tensors)
    with pytest.raises(ValueError, match=r"reads_block names blocks outside 0\.\.29"):
        load_table(path)


def test_it_trains_shares_and_trains_on() -> None:
    result = train_once(
        tiny_dataset(3000),
        method="dedup",
        budget="60%",
        method_options={"block": 2},
        model="mlp",
        model_options={"hidden": (16,)},
        embedding_dim=8,
        train_config=TrainConfig(batch_size=100, lr=0.01, max_epochs=4, precision="fp32"),
        progress="off",
    )
    assert result.valid["auc"] > 0.65
    assert plan("dedup", VOCABULARIES, 8, "60%").training.bytes > 1037 * 8 * 4 * 3

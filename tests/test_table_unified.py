"""The unified table's lookup in one kernel gives the same vectors as address and gather, whatever the shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rectab.ops import use_kernel
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, build_table
from rectab.tables.unified import UnifiedConfig

NAMES = ("user", "item", "city")


def unified(num_chunks: int, num_tables: int, dim: int = 12, rows: str = "fp32") -> EmbeddingTable:
    vocabularies = [Vocabulary(name, 1000) for name in NAMES]
    config = UnifiedConfig(97, num_chunks, num_tables)
    return build_table("unified", vocabularies, dim, config, TableOptions(rows=rows)).eval()


def by_address(table: EmbeddingTable, ids: Tensor, vocabulary: Tensor) -> Tensor:
    with use_kernel("torch"):
        return table(ids, vocabulary)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 200),
    fields=st.integers(1, 5),
    shape=st.sampled_from(["one", "fields", "ids"]),
    chunks=st.sampled_from([1, 2, 3, 4]),
    tables=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**20),
)
def test_one_kernel_gives_what_address_and_gather_give(
    batch: int, fields: int, shape: str, chunks: int, tables: int, seed: int
) -> None:
    table, generator = unified(chunks, tables), torch.Generator().manual_seed(seed)
    ids = torch.randint(-(2**62), 2**62, (batch, fields), generator=generator)
    sizes = {"one": (), "fields": (fields,), "ids": (batch, fields)}[shape]
    vocabulary = torch.randint(0, len(NAMES), sizes, generator=generator)
    with torch.no_grad():
        assert torch.equal(table(ids, vocabulary), by_address(table, ids, vocabulary))


@pytest.mark.parametrize("threads", [1, 2])
def test_it_does_so_on_several_threads_and_of_one_id(threads: int) -> None:
    table, before = unified(2, 1), torch.get_num_threads()
    ids, vocabulary = torch.arange(5000 * 3).view(5000, 3), torch.arange(3)
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            assert torch.equal(table(ids, vocabulary), by_address(table, ids, vocabulary))
            assert torch.equal(table(ids[0, 0], 1), by_address(table, ids[0, 0], torch.tensor(1)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", ["fp32", "bf16", "int8"])
def test_training_and_other_formats_read_the_same_rows(rows: str) -> None:
    table, ids = unified(2, 1, rows=rows), torch.arange(30).view(10, 3)
    vectors = table(ids, torch.arange(3))
    assert vectors.requires_grad
    with torch.no_grad():
        assert torch.equal(table(ids, torch.arange(3)), vectors)

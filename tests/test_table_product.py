"""Product codes: bits at any place, floors as the benchmark has them, codes that are those of training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, full_table_bytes, plan
from rectab.tables.dpq import DPQTable
from rectab.tables.mgqe import MGQETable
from rectab.tables.product import CodesTable, CodeStream

DIM = 8
CRITEO = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306]
CRITEO += [10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]


def criteo() -> list[Vocabulary]:
    """The 26 fields of the VLDB benchmark, 33,762,577 ids."""
    return [Vocabulary(f"c{i}", n, counts=np.broadcast_to(np.int64(1), (n,))) for i, n in enumerate(CRITEO)]


def build(method: str, vocabularies: list[Vocabulary], **settings: Any) -> DPQTable[Any]:
    table = plan(method, vocabularies, DIM, None, options=TableOptions(init_std=0.1), **settings).build()
    assert isinstance(table, DPQTable)
    return table


@torch.no_grad()
def vectors_of(table: EmbeddingTable) -> Tensor:
    """[N, D] of every id of every vocabulary."""
    return torch.cat([table(torch.arange(v.num_embeddings), i) for i, v in enumerate(table.vocabularies)])


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_of_any_bits_are_read_back(bits: int) -> None:
    codes = torch.randint(1 << bits, (1001,), generator=torch.Generator().manual_seed(bits))
    stream = CodeStream(1001, bits)
    stream.fill(codes)
    assert torch.equal(stream(torch.arange(1001).flip(0)), codes.flip(0))
    assert stream.packed.numel() <= 1001 * bits / 8 + 2


@pytest.mark.parametrize(("parts", "share"), [(1, 0.075), (2, 0.087), (4, 0.111), (8, 0.160), (16, 0.256)])
def test_mgqe_is_as_small_as_the_benchmark_says(parts: int, share: float) -> None:
    """Which counts one word an id for its group, and a codebook for every field."""
    vocabularies = criteo()
    full = full_table_bytes(vocabularies, 16)
    planned = plan("mgqe", vocabularies, 16, None, parts=parts)
    group_bytes = sum(e.bytes for e in planned.on_meta.serving().ledger() if e.component.startswith("groups."))
    ours = planned.serving.bytes
    assert (ours - group_bytes + 4 * sum(CRITEO)) / full == pytest.approx(share, abs=6e-4)
    assert ours / full < share - 0.055
    assert group_bytes < sum(CRITEO) / 8


def test_a_budget_chooses_ever_more_bits_an_id() -> None:
    shares = ["1%", "2%", "5%", "10%", "25%"]
    configs = [plan("dpq", criteo(), 16, share).config for share in shares]
    bits = [c.parts * (c.num_centroids.bit_length() - 1) for c in configs]
    assert all(a < b for a, b in pairwise(bits))
    assert bits[0] >= 4
    assert plan("dpq", criteo(), 16, "10%").ratio > 0.08


@pytest.mark.parametrize("one_codebook", [False, True])
@pytest.mark.parametrize("method", ["dpq", "mgqe"])
def test_what_is_served_is_what_training_reads(method: str, one_codebook: bool, vocabularies: list[Vocabulary]) -> None:
    table = build(method, vocabularies, one_codebook=one_codebook)
    optimizer = RowAdam(table.row_stores(), lr=0.05)
    dense = torch.optim.Adam(table.dense_parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(5000, DIM, generator=generator)
    losses = []
    for _ in range(60):
        ids = torch.randint(5000, (512,), generator=generator)
        loss = (table(ids, 1) - wanted[ids]).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        dense.zero_grad()
        loss.backward()
        optimizer.step()
        dense.step()
    assert losses[-1] < 0.85 * losses[0], "the gradient goes straight through"
    table.eval()
    served = table.serving()
    assert isinstance(served, CodesTable)
    assert torch.equal(vectors_of(served), vectors_of(table))
    assert any(v.num_embeddings == 3 for v in vocabularies)
    assert 2 not in table.config.coded or one_codebook, "three rows are less than a codebook"


def test_a_vector_does_not_depend_on_the_rest_of_its_batch(vocabularies: list[Vocabulary]) -> None:
    table = build("dpq", vocabularies).eval()
    alone = torch.cat([table(torch.tensor([i]), 1) for i in (5, 6, 7)])
    assert torch.equal(alone, table(torch.tensor([5, 6, 7, 9, 5]), 1)[:3])


def test_distances_are_normalised_so_that_no_centroid_is_left_alone(vocabularies: list[Vocabulary]) -> None:
    used = {}
    for normalize in (True, False):
        table = build("dpq", vocabularies, num_centroids=64, parts=2, normalize=normalize)
        with torch.no_grad():
            table.codebook[:, :, 1:] *= 30.0  # far away from all rows
        table.train()
        for _ in range(80):
            table(torch.arange(5000), 1)
        table.eval()
        codes = next(iter(table._all_codes())) if len(table.config.coded) == 1 else torch.cat(list(table._all_codes()))
        used[normalize] = len(codes[:, 0].unique())
    assert used[True] > 40 > used[False]


def test_the_most_frequent_ids_choose_from_more_centroids() -> None:
    counts = np.random.default_rng(0).permutation(4000)
    vocabulary = Vocabulary("item", 4000, counts=counts)
    table = build("mgqe", [vocabulary], centroids=(64, 4), shares=(0.2, 0.8), parts=4)
    assert isinstance(table, MGQETable)
    codes = torch.cat(list(table._all_codes()))
    frequent = torch.from_numpy(counts >= 3200)
    assert torch.equal(table.group == 0, frequent)
    assert codes[~frequent].max() == 3
    assert codes[frequent].max() > 50
    served = table.serving()
    assert isinstance(served, CodesTable)
    assert served.config.group_ids == (800, 3200)
    assert sum(e.bytes for e in served.ledger() if "streams" in e.component) == 800 * 4 * 6 // 8 + 3200 * 4 * 2 // 8 + 2
    assert torch.equal(vectors_of(served), vectors_of(table.eval()))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dpq", {"num_centroids": 48}, "must be a power of two from 2 to 256, got 48"),
        ("dpq", {"parts": 3}, "parts 3 does not divide embedding_dim 8"),
        ("mgqe", {"centroids": (64, 256)}, "falling powers of two"),
        ("mgqe", {"shares": (0.5, 0.6)}, "2 positive numbers that sum to 1"),
        ("mgqe", {"centroids": ()}, "a number for every group"),
    ],
)
def test_options_are_checked(
    method: str, settings: dict[str, Any], message: str, vocabularies: list[Vocabulary]
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(method, vocabularies, DIM, "50%", **settings)

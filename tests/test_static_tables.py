"""Tables whose sharing is fixed beforehand: each against its paper's formula, written out, and what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rectab.ops import hash_rows, mix, salt_of
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, build_table, plan, tt_rec
from rectab.tables.fit import FitTarget, reconstruction_error
from rectab.tables.memcom import MEmComConfig
from rectab.tables.robe import RobeConfig
from rectab.tables.tt_rec import TTRecConfig, factors_of_dim, factors_of_size

IDS = torch.tensor([0, 1, 7, 4999])


def planned(method: str, vocabularies: Sequence[Vocabulary], budget: str | None = "25%", **options: Any) -> Any:
    return plan(method, vocabularies, 8, budget, options=TableOptions(init_std=0.1), **options).build().eval()


def vectors(table: EmbeddingTable, ids: Tensor = IDS, vocabulary: int = 1) -> Tensor:
    return table(ids, vocabulary).detach()


@pytest.mark.parametrize("bias", [False, True])
def test_memcom_multiplies_a_hashed_row_by_a_number_of_the_id(bias: bool, vocabularies: list[Vocabulary]) -> None:
    table = planned("memcom", vocabularies, "50%", bias=bias)
    own = torch.randn(7153, 1 + bias, generator=torch.Generator().manual_seed(0))
    table.factor.write(slice(None), own)
    rows = table.store.read(table.address(IDS, torch.tensor(1)))
    of_ids = own[2000 + IDS]
    torch.testing.assert_close(vectors(table), rows * (1 + of_ids[:, :1]) + (of_ids[:, 1:] if bias else 0))
    assert build_table("memcom", vocabularies, 8, MEmComConfig((9, 9, 3, 9), bias)).ledger().only("rows").bytes == (
        4 * (30 * 8 + 7153 * (1 + bias))
    )


@pytest.mark.parametrize("hashes", [1, 2, 3])
def test_hash_embeddings_are_weighted_sums_of_hashed_rows(hashes: int, vocabularies: list[Vocabulary]) -> None:
    table = planned("hash_embedding", vocabularies, num_hashes=hashes)
    config, expected = table.config, torch.zeros(4, 8)
    weights = table.weight.read(hash_rows(IDS, salt_of(0, "item", "weight"), config.num_weights))
    for k in range(hashes):
        expected += weights[:, k : k + 1] * table.store.read(hash_rows(IDS, salt_of(0, "item", k), config.num_rows))
    torch.testing.assert_close(vectors(table), expected)
    held = {entry.component: entry.bytes for entry in table.ledger()}
    assert held["store.weight"] == pytest.approx(held["weight.weight"], rel=0.01), "half of the bytes each"
    assert planned("hash_embedding", vocabularies, weight_share=0.2).config.num_rows > config.num_rows


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("block", [1, 3, 4, 8, 24])
def test_robe_reads_the_floats_that_follow_an_offset(block: int, signs: bool, vocabularies: list[Vocabulary]) -> None:
    """Element by element, on the array as one."""
    config = RobeConfig(num_rows=50, block=block, signs=signs)
    table: Any = build_table("robe", vocabularies, 8, config).eval()
    width, per_block = min(block, 8), max(1, block // 8)
    array = table.store.read(slice(None)).flatten().tolist()
    for id_ in (0, 5, 4999, -3):
        expected = []
        number, within = id_ // per_block, id_ % per_block
        for element in range(8):
            chunk, place = divmod(element, width)
            salt = salt_of(0, "item", chunk)
            offset = int(hash_rows(torch.tensor(number), salt, 50)) * width
            if width > 1:
                offset += int(hash_rows(torch.tensor(number), salt ^ salt_of(0, "item", "shift"), width))
            value = array[(offset + within * 8 + place) % len(array)]
            bits = int(mix(mix(torch.tensor(id_), salt_of(0, "item", "sign")), 0)) >> element
            expected.append(value * (2 * (bits & 1) - 1) if signs else value)
        assert vectors(table, torch.tensor(id_)).tolist() == expected


def test_robe_starts_at_every_offset_and_its_signs_are_even(vocabularies: list[Vocabulary]) -> None:
    table: Any = build_table("robe", vocabularies, 8, RobeConfig(20, 8))
    table.store.write(slice(None), torch.arange(1.0, 161.0).view(20, 8))
    found = vectors(table, torch.arange(5000))
    counts = torch.bincount(found[:, 0].abs().long(), minlength=161)[1:]
    assert counts.min() > 10, "each of 160 offsets is some id's"
    assert (found.sign().mean(0).abs() < 0.06).all()
    following = found.abs().long() - 1
    assert torch.equal(following[:, 1:], (following[:, :-1] + 1) % 160)


def test_robe_fills_any_budget_whatever_its_block(vocabularies: list[Vocabulary]) -> None:
    for block in (1, 3, 8, 16):
        made = plan("robe", vocabularies, 8, "3%", block=block)
        assert made.serving.bytes > 0.98 * made.budget_bytes  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"block must be in 1\.\.8 or a multiple of 8, got 12"):
        plan("robe", vocabularies, 8, "3%", block=12)


def test_tensor_trains_multiply_slices_by_the_digits_of_an_id() -> None:
    table: Any = build_table("tt_rec", [Vocabulary("a", 900), Vocabulary("b", 3)], 8, TTRecConfig(3)).eval()
    (n1, n2, n3), (d1, d2, d3) = factors_of_size(900), factors_of_dim(8)
    assert n1 * n2 * n3 >= 900
    cores = [
        table.first.read(slice(None)).view(n1, d1, 3),
        table.middle.read(slice(None)).view(n2, 3, d2, 3),
        table.last.read(slice(None)).view(n3, 3, d3),
    ]
    whole = torch.einsum("apr,brqs,cst->abcpqt", *cores).reshape(n1 * n2 * n3, 8)
    torch.testing.assert_close(vectors(table, torch.arange(900), 0), whole[:900])
    assert torch.equal(vectors(table, torch.arange(3), 1), table.whole.read(slice(None))), "three ids keep their rows"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 64, 1000, 33762577, 2**40])
def test_digits_reach_every_id_and_waste_little(size: int) -> None:
    a, b, c = factors_of_size(size)
    assert a * b * c >= size
    assert a * b * c < 1.35 * size + 3
    assert b <= a


def test_large_slices_are_laid_out_in_pieces_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for elements in (1 << 23, 64):
        monkeypatch.setattr(tt_rec, "_ELEMENTS_AT_A_TIME", elements)
        options = TableOptions(gradient="dense", init_std=0.1)
        table = build_table("tt_rec", [Vocabulary("a", 900)], 8, TTRecConfig(4), options)
        table(torch.arange(0, 900, 7), 0).square().sum().backward()
        results.append([p.grad for p in table.parameters()])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_products_of_cores_start_as_spread_as_normal_numbers() -> None:
    """Products of three normal numbers would have a kurtosis far above 3 at a low rank."""
    made = build_table("tt_rec", [Vocabulary("a", 50_000)], 16, TTRecConfig(2), TableOptions(init_std=0.1))
    found = vectors(made, torch.arange(50_000), 0)
    assert found.std().item() == pytest.approx(0.1, rel=0.1)
    assert ((found / found.std()) ** 4).mean() < 5


def test_widths_fall_with_the_size_of_a_vocabulary(vocabularies: list[Vocabulary]) -> None:
    config = plan("mde", vocabularies, 8, "50%").config
    user, item, gender, city = config.widths
    assert item <= user < city <= gender == 8
    assert len(set(plan("mde", vocabularies, 8, "50%", alpha=0.0).config.widths[:2])) == 1
    assert plan("mde", vocabularies, 8, "60%", powers_of_two=True).config.widths[1] in (1, 2, 4)
    table = planned("mde", vocabularies, "50%")
    rows = table.stores[str(item)].read(table.first_row[1] + IDS)
    torch.testing.assert_close(vectors(table), rows @ table.projections[str(item)][table.matrix[1]].detach())
    with pytest.raises(ValueError, match=r"alpha must be in 0\.\.1, got 2"):
        plan("mde", vocabularies, 8, "50%", alpha=2.0)


@pytest.mark.parametrize("rows", ["fp32", "bf16"])
def test_mlet_serves_the_product_of_what_it_trained(rows: str, vocabularies: list[Vocabulary]) -> None:
    made = plan("mlet", vocabularies, 8, "50%", options=TableOptions(init_std=0.1, rows=rows))
    table: Any = made.build().eval()
    served = table.serving()
    assert (served.method, served.config.width, table.store.row_dim) == ("narrow", 3 if rows == "fp32" else 7, 16)
    assert made.serving.bytes == served.ledger().bytes <= made.budget_bytes
    tolerance = 1e-6 if rows == "fp32" else 2e-3
    torch.testing.assert_close(vectors(served), vectors(table), rtol=0, atol=tolerance)
    with pytest.raises(ValueError, match="inner must be at least embedding_dim 8, got 6"):
        plan("mlet", vocabularies, 8, "50%", inner=6)


def test_mlet_trains_ids_that_a_batch_does_not_have(vocabularies: list[Vocabulary]) -> None:
    options = TableOptions(init_std=0.1, gradient="dense")
    table = plan("mlet", vocabularies, 8, "50%", options=options).build()
    absent = vectors(table, torch.tensor([3000]))
    table(torch.tensor([1, 2]), 1).square().sum().backward()
    torch.optim.SGD(table.parameters(), lr=0.5).step()
    assert not torch.allclose(vectors(table, torch.tensor([3000])), absent)


@pytest.mark.parametrize("method", ["mlet", "mde"])
def test_a_start_from_trained_vectors_is_the_least_squares_of_its_width(method: str) -> None:
    """Against the singular values that are left out."""
    vocabularies = [Vocabulary("a", 300), Vocabulary("b", 40)]
    table = planned(method, vocabularies, "60%")
    wanted = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(8, 0, -1)
    table.start_from([FitTarget(0, wanted, None, None)])
    width = table.config.width if method == "mlet" else table.config.widths[0]
    left = wanted[:, width:] if method == "mlet" else torch.linalg.svdvals(wanted)[width:]
    error = reconstruction_error(table, FitTarget(0, wanted, None, None))
    assert 0 < error == pytest.approx(float(left.norm() / wanted.norm()), rel=1e-3)


def test_the_most_frequent_ids_of_all_vocabularies_have_rows_of_their_own(vocabularies: list[Vocabulary]) -> None:
    table = planned("adaptemb", vocabularies, "20%")
    hot, shared = table.config.hot, table.config.shared
    assert table.store.num_rows == sum(hot) + sum(shared)
    assert sum(hot) == pytest.approx(sum(shared), abs=2)
    coldest = [v.counts[h - 1] for v, h in zip(vocabularies, hot, strict=True) if h > 1]
    hottest = [v.counts[h] for v, h in zip(vocabularies, hot, strict=True) if h < v.num_embeddings]
    assert min(coldest) >= max(hottest), "no id outside is more frequent than one inside"
    rows = table.address(torch.arange(5000), torch.tensor(1))
    assert torch.bincount(rows)[rows[: hot[1]]].max() == 1
    others = rows[hot[1] :] - rows.min() - hot[1]
    assert others.min() >= 0
    assert others.max() < shared[1]
    assert sum(planned("adaptemb", vocabularies, "20%", hot_share=0.0).config.hot) == 0


def test_adaptemb_starts_from_trained_vectors_exactly_where_ids_are_hot(vocabularies: list[Vocabulary]) -> None:
    table = planned("adaptemb", vocabularies)
    wanted = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    table.start_from([FitTarget(1, wanted, None, None)])
    hot = table.config.hot[1]
    assert torch.equal(vectors(table, torch.arange(hot)), wanted[:hot])
    rows = table.address(torch.arange(5000), torch.tensor(1))
    mates = (rows == rows[4999]).nonzero().squeeze(1)
    torch.testing.assert_close(vectors(table)[3], wanted[mates].mean(0))


def test_ids_that_are_not_numbered_by_frequency_are_found_in_an_index(vocabularies: list[Vocabulary]) -> None:
    order = np.random.default_rng(0).permutation(4999) + 1
    shuffled = np.concatenate([vocabularies[1].counts[:1], vocabularies[1].counts[order]])
    mixed = [vocabularies[0], replace(vocabularies[1], counts=shuffled), *vocabularies[2:]]
    plain, table = planned("adaptemb", vocabularies, "20%"), planned("adaptemb", mixed, "20%")
    assert plain.config.ordered
    assert not table.config.ordered
    assert 0 < table.ledger().only("index").bytes - plain.ledger().only("index").bytes < 7153 * 0.2 + 64
    for index, vocabulary in enumerate(mixed):
        hot = table.config.hot[index]
        expected = np.sort(np.argsort(-np.concatenate([[np.inf], vocabulary.counts[1:]]), kind="stable")[:hot])
        ids = torch.arange(vocabulary.num_embeddings)
        rows = table.address(ids, torch.tensor(index)) - table.first_row[index]
        if not table.whole[index]:
            assert torch.equal(torch.nonzero(rows < hot).squeeze(1), torch.from_numpy(expected))
            assert torch.equal(rows[rows < hot], torch.arange(hot))
    outside = table.address(torch.tensor([-1, 2000, 2003, 7000, 2**62, 2**63 - 1]), torch.tensor(0))
    first = table.config.hot[0]
    assert ((outside >= first) & (outside < first + table.config.shared[0])).all(), "no id outside reads a hot row"


def test_without_counts_a_vocabulary_of_few_ids_is_read_as_often_as_one_of_many(
    vocabularies: list[Vocabulary],
) -> None:
    bare = [replace(v, counts=None) for v in vocabularies]
    assert plan("adaptemb", bare, 8, "20%").config.hot[2] == 3

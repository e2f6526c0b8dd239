"""Where ids land: hashing, chunks, collisions and budgets of the hashed and unified tables.

Each fault of Google's layer and of the third-party codes that is named below is one that rectab must not share.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rectab.ops import hash_rows, hashing, mix, salt_of
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, expected_collisions, plan
from rectab.tables.hashed import HashedConfig, HashedTable, allocate_rows
from rectab.tables.unified import UnifiedConfig, UnifiedTable


def unified(vocabularies: list[Vocabulary], rows: int = 500, chunks: int = 2, tables: int = 1, dim: int = 24):
    return UnifiedTable(vocabularies, dim, UnifiedConfig(rows, chunks, tables))


def chi_square_deviation(rows: Tensor, num_rows: int) -> float:
    """Deviation of the chi-square statistic from its mean, in its standard deviations."""
    counts = torch.bincount(rows, minlength=num_rows).double()
    expected = rows.numel() / num_rows
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - (num_rows - 1)) / (2 * (num_rows - 1)) ** 0.5


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(torch.arange(100_000), id="sequential"),
        pytest.param(torch.arange(100_000) * 1024, id="strided"),
        pytest.param(torch.arange(100_000) + 2**31, id="beyond_int32"),
        pytest.param(torch.arange(100_000) * 2**40, id="high_bits"),
        pytest.param(-torch.arange(100_000), id="negative"),
    ],
)
@pytest.mark.parametrize("num_rows", [7, 1000, 1024])
def test_rows_are_uniform(ids: Tensor, num_rows: int) -> None:
    assert abs(chi_square_deviation(hash_rows(ids, salt_of(0, "item"), num_rows), num_rows)) < 5


def test_mixer_is_splitmix64() -> None:
    # First outputs of the reference splitmix64 with seed 0; its state advances by the golden gamma first.
    gamma = 0x9E3779B97F4A7C15 - 2**64
    states = torch.tensor([gamma, 2 * gamma + 2**64]).to(torch.int64)
    unsigned = [value % 2**64 for value in mix(states, 0).tolist()]
    assert unsigned == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_rows_stay_in_range_at_the_extremes() -> None:
    ids = torch.tensor([0, 1, -1, 2**31, 2**62, -(2**63), 2**63 - 1])
    for num_rows in (1, 2, 2**31 - 1):
        rows = hash_rows(ids, salt_of(0, "x"), num_rows)
        assert bool(((rows >= 0) & (rows < num_rows)).all())
    assert torch.equal(hash_rows(ids[:4].to(torch.int32), 5, 1000)[:3], hash_rows(ids[:4], 5, 1000)[:3])


def test_id_0_and_1_are_not_special_under_different_salts() -> None:
    """A multiplicative hash sends id 0 to row 0 under every salt (cce's PolyHash and MultiHash)."""
    salts = torch.tensor([salt_of(0, "item", chunk) for chunk in range(200)])
    for value in (0, 1):
        rows = hash_rows(torch.full((200,), value), salts, 1000)
        assert len(set(rows.tolist())) > 150


def test_same_id_in_two_vocabularies_collides_at_the_chance_rate() -> None:
    table = unified([Vocabulary("a", 20_000), Vocabulary("b", 20_000)], rows=100, chunks=1)
    ids = torch.arange(20_000)
    rows_a, rows_b = (table.address(ids, torch.tensor(v)).squeeze(-1) for v in (0, 1))
    rate = (rows_a == rows_b).double().mean().item()
    assert abs(rate - 0.01) < 4 * (0.01 * 0.99 / 20_000) ** 0.5


def test_chunks_of_one_id_are_independent_and_in_numeric_order() -> None:
    """TFRS sorts chunk names, so chunk 10 comes before chunk 2."""
    table = unified([Vocabulary("a", 5000)], rows=97, chunks=12)
    rows = table.address(torch.arange(5000), torch.tensor(0))
    for first, second in itertools.combinations(range(12), 2):
        rate = (rows[:, first] == rows[:, second]).double().mean().item()
        assert abs(rate - 1 / 97) < 5 * (1 / 97 / 5000) ** 0.5
    vectors = table(torch.arange(5), 0).detach()
    width = 24 // 12
    for chunk in range(12):
        salt = salt_of(0, "a", chunk)
        expected = table.store.weight[hash_rows(torch.arange(5), salt, 97)]
        assert torch.equal(vectors[:, chunk * width : (chunk + 1) * width], expected)


def test_sub_tables_are_dealt_round_robin_over_features_and_chunks() -> None:
    """As TFRS does: the cursor advances once a chunk and is not reset for a feature."""
    table = unified([Vocabulary("a", 10), Vocabulary("b", 10)], rows=50, chunks=3, tables=2)
    rows = torch.stack([table.address(torch.arange(10), torch.tensor(v)) for v in (0, 1)])
    assert torch.equal((rows // 50)[:, 0], torch.tensor([[0, 1, 0], [1, 0, 1]]))
    assert bool((rows // 50 == (rows // 50)[:, :1]).all())


@pytest.mark.parametrize("tables", [1, 3])
def test_adding_a_vocabulary_at_the_end_moves_no_rows(tables: int) -> None:
    before = [Vocabulary("a", 100), Vocabulary("b", 100)]
    after = [*before, Vocabulary("c", 1_000_000)]
    ids = torch.arange(100)
    for index in (0, 1):
        small, large = (unified(v, tables=tables).address(ids, torch.tensor(index)) for v in (before, after))
        assert torch.equal(small, large)


def test_colliding_ids_sum_their_gradients_and_others_get_none() -> None:
    table = UnifiedTable([Vocabulary("a", 50)], 4, UnifiedConfig(3, 1), TableOptions(gradient="dense"))
    rows = table.address(torch.arange(50), torch.tensor(0)).squeeze(-1)
    pair = (rows == rows[0]).nonzero().squeeze(-1)[:2]
    table(pair, 0).sum().backward()
    gradient = table.store.weight.grad
    assert gradient is not None
    assert torch.equal(gradient[rows[0]], torch.full((4,), 2.0))
    assert torch.count_nonzero(gradient) == 4


def test_salts_move_with_the_state_and_are_saved() -> None:
    """onemb keeps its hashes in a plain dict: neither moved nor saved."""
    table = unified([Vocabulary("a", 10)])
    assert "salt" in table.state_dict()
    assert table.to("meta").salt.device.type == "meta"


def test_unified_memory_does_not_depend_on_features_or_chunks() -> None:
    for num_vocabularies, chunks in itertools.product((1, 30), (1, 2, 4)):
        vocabularies = [Vocabulary(f"v{i}", 1000) for i in range(num_vocabularies)]
        table = UnifiedTable(vocabularies, 16, UnifiedConfig(100 * chunks, chunks))
        assert table.ledger().by_kind() == {"rows": 100 * 16 * 4, "index": 8 * chunks * num_vocabularies}


def test_budget_wastes_less_than_a_row_per_sub_table() -> None:
    vocabularies = [Vocabulary("a", 10_000), Vocabulary("b", 100)]
    for budget, tables in itertools.product((3000, 9999, 65_536), (1, 4)):
        planned = plan("unified", vocabularies, 16, budget, num_tables=tables)
        assert 0 <= budget - planned.serving.bytes < tables * 8 * 4


def test_hashed_keeps_small_vocabularies_whole_and_refuses_ids_outside_them() -> None:
    vocabularies = [Vocabulary("gender", 3), Vocabulary("item", 10_000)]
    table = plan("hashed", vocabularies, 8, "10%").build()
    assert isinstance(table, HashedTable)
    assert table.config.num_rows[0] == 3
    assert table.address(torch.arange(3), torch.tensor(0)).tolist() == [0, 1, 2]
    with pytest.raises(IndexError, match="id 3 is outside"):
        table(torch.tensor([3]), 0)
    assert torch.isfinite(table(torch.tensor([10_001, -5]), 1)).all()


def test_full_clamps_nothing() -> None:
    table = plan("full", [Vocabulary("a", 5), Vocabulary("b", 5)], 4).build()
    for ids in ([5], [-1], [2**40]):
        with pytest.raises(IndexError, match="outside vocabulary"):
            table(torch.tensor(ids), 0)


def test_hashed_ranges_do_not_overlap() -> None:
    vocabularies = [Vocabulary("a", 1000), Vocabulary("b", 3), Vocabulary("c", 500)]
    table = HashedTable(vocabularies, 4, HashedConfig((50, 3, 20)))
    for index, (first, size) in enumerate([(0, 50), (50, 3), (53, 20)]):
        rows = table.address(torch.arange(vocabularies[index].num_embeddings), torch.tensor(index))
        assert rows.min() >= first
        assert rows.max() < first + size


@pytest.mark.parametrize(("total", "whole_below"), [(4, 100), (20, 100), (300, 100), (5000, 10), (7152, 100)])
def test_rows_are_shared_out_exactly(total: int, whole_below: int) -> None:
    sizes = [2000, 5000, 3, 150]
    rows = np.asarray(allocate_rows(sizes, total, whole_below))
    assert rows.sum() == min(total, sum(sizes))
    assert (rows >= 1).all()
    assert (rows <= sizes).all()


def test_rows_follow_vocabulary_sizes() -> None:
    rows = allocate_rows([2000, 8000], 1000, 1)
    assert rows == (200, 800)
    assert allocate_rows([2000, 8000, 3], 1000, 100)[2] == 3
    with pytest.raises(ValueError, match="3 vocabularies"):
        allocate_rows([5, 5, 5], 2, 1)


@pytest.mark.parametrize(
    ("method", "options"),
    [("full", {}), ("hashed", {}), ("unified", {}), ("unified", {"num_chunks": 4}), ("unified", {"num_tables": 3})],
)
def test_expected_collisions_match_a_brute_force_count(method: str, options: dict, vocabularies) -> None:
    table = plan(method, vocabularies, 8, None if method == "full" else "10%", **options).build()
    expected = expected_collisions(table)
    assert expected is not None
    addresses = [table.address(torch.from_numpy(v.known_ids()), torch.tensor(i)) for i, v in enumerate(vocabularies)]
    addresses = [a if a.dim() == 2 else a.unsqueeze(-1) for a in addresses]
    num_rows = table.store.num_rows
    per_vocabulary = [torch.bincount(a.flatten(), minlength=num_rows).double() for a in addresses]
    total = sum(per_vocabulary)
    for vocabulary, own, rows in zip(vocabularies, per_vocabulary, addresses, strict=True):
        intra_expected, inter_expected = expected.by_vocabulary[vocabulary.name]
        intra = (own[rows] - 1).mean().item()
        inter = (total - own)[rows].mean().item()
        for found, wanted in ((intra, intra_expected), (inter, inter_expected)):
            # Hits on a row are Poisson; five standard errors over the rows looked at, and 5 % for their dependence.
            assert abs(found - wanted) <= 5 * (wanted / rows.numel()) ** 0.5 + 0.05 * wanted


def test_collisions_of_the_full_table_are_none(vocabularies) -> None:
    collisions = expected_collisions(plan("full", vocabularies, 8).build())
    assert collisions is not None
    assert (collisions.intra, collisions.inter, collisions.shared) == (0.0, 0.0, 0.0)


def test_bad_unified_configurations_are_refused() -> None:
    vocabularies = [Vocabulary("a", 10)]
    for settings, text in [((10, 3), "does not divide"), ((0, 2), "rows_per_table"), ((10, 2, 0), "num_tables")]:
        with pytest.raises(ValueError, match=text):
            build_table("unified", vocabularies, 16, UnifiedConfig(*settings))


INTEGERS = st.integers(-(2**63), 2**63 - 1)


def signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


@given(x=INTEGERS, y=INTEGERS)
def test_sums_and_products_in_graphs_wrap_without_overflow(x: int, y: int) -> None:
    """Compilers take signed numbers not to overflow; a program that AOTInductor made read one row for all ids."""
    number = torch.tensor([x])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "is_eager", lambda *tensors: False)
        assert hashing.wrapped_product(number, y).item() == signed(x * y)
        assert hashing.wrapped_sum(number, y).item() == signed(x + y)
        assert hashing.wrapped_sum(number, torch.tensor([y])).item() == signed(x + y)
        in_graph = hashing.mix(number, y)
        assert hashing.unmix(in_graph, y).item() == x
    assert torch.equal(hashing.mix(number, y), in_graph)

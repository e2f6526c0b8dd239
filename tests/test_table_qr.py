"""The quotient-remainder trick: unique pairs, and divisors that fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, plan
from rectab.tables.fit import FitTarget, reconstruction_error
from rectab.tables.qr import QRConfig, divisor_within
from rectab.tables.registry import get_method


@given(st.integers(1, 3000), st.integers(1, 3100))
@settings(deadline=None, max_examples=300)
def test_the_divisor_is_the_smallest_that_fits(num_ids: int, rows: int) -> None:
    needed = {c: c + -(-num_ids // c) for c in range(1, num_ids + 1)}
    fitting = [c for c in needed if needed[c] <= rows]
    found = divisor_within(num_ids, rows)
    assert needed[found] == min(needed.values()) if not fitting else found == fitting[0]


@given(st.integers(1, 2000), st.integers(1, 2000))
@settings(deadline=None, max_examples=100)
def test_every_id_has_a_pair_of_its_own(num_ids: int, divisor: int) -> None:
    table = build_table("qr", [Vocabulary("a", num_ids)], 2, QRConfig((divisor,)))
    (_, remainder), (_, quotient) = table.reads(torch.arange(num_ids), torch.tensor(0))
    pairs = torch.cat([remainder, quotient], -1)
    assert pairs.unique(dim=0).shape[0] == num_ids
    assert remainder.max() + 1 == table.remainder.num_rows  # type: ignore[union-attr]
    assert quotient.max() + 1 == table.quotient.num_rows  # type: ignore[union-attr]


@pytest.mark.parametrize("combine", ["product", "sum", "concat"])
def test_the_rows_are_combined_as_asked(combine: str, vocabularies: Sequence[Vocabulary]) -> None:
    options = TableOptions(init_std=0.05)
    table = plan("qr", vocabularies, 8, "20%", options=options, combine=combine).build()
    ids = torch.arange(5000)
    (a, rows_a), (b, rows_b) = table.reads(ids, torch.tensor(1))
    x, y = a.read(rows_a.squeeze(-1)), b.read(rows_b.squeeze(-1))
    expected = {"product": x * y, "sum": x + y, "concat": torch.cat([x, y], -1)} if x.shape[1] == 8 else None
    got = table(ids, 1).detach()
    torch.testing.assert_close(got, torch.cat([x, y], -1) if expected is None else expected[combine])
    assert got.std().item() == pytest.approx(0.05, rel=0.15)
    assert table.is_plain_rows == (combine == "concat")


def test_what_does_not_fit_is_refused_by_name(vocabularies: Sequence[Vocabulary]) -> None:
    with pytest.raises(ValueError, match="needs an even embedding_dim, got 5"):
        plan("qr", vocabularies, 5, "20%", combine="concat")
    with pytest.raises(ValueError, match="one number a vocabulary"):
        build_table("qr", vocabularies, 8, QRConfig((3,)))
    with pytest.raises(ValueError, match=r"qr\.combine must be one of product, sum, concat, got 'mean'"):
        plan("qr", vocabularies, 8, "20%", combine="mean")


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_a_start_from_trained_vectors_alternates_to_the_least_squares(combine: str) -> None:
    """Vectors that are such a product or sum are found again; with counts, what is frequent is nearer."""
    vocabulary, config = [Vocabulary("a", 200)], QRConfig((20,), combine)  # type: ignore[arg-type]
    source = build_table("qr", vocabulary, 4, config, TableOptions(seed=1, init_std=1.0))
    wanted = source(torch.arange(200), 0).detach()
    table = build_table("qr", vocabulary, 4, config, TableOptions(seed=2, init_std=1.0))
    target = FitTarget(0, wanted, None, None)
    assert reconstruction_error(table, target) > 1
    table.start_from([target])
    assert reconstruction_error(table, target) < 0.05
    table.start_from([FitTarget(0, wanted.double(), None, None)])  # trained in another data type
    assert reconstruction_error(table, target) < 0.05
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    errors = []
    for counts in (torch.ones(200), torch.cat([torch.full((10,), 1e4), torch.ones(190)])):
        table.start_from([FitTarget(0, noise, None, counts)])
        errors.append((table(torch.arange(10), 0) - noise[:10]).square().sum().item())
    assert errors[1] < 0.6 * errors[0]


def test_a_sum_of_one_row_is_solved_at_once() -> None:
    """A method whose ids read a single row, said to be added up."""
    table = build_table("full", [Vocabulary("a", 30)], 4, get_method("full").config())
    table.combine = "sum"  # type: ignore[misc]
    wanted = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    table.start_from([FitTarget(0, wanted, None, None)])
    torch.testing.assert_close(table(torch.arange(30), 0), wanted)

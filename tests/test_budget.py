"""Budgets as people write them, and bytes as they read them."""

from __future__ import annotations

import pytest

from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, TableOptions, format_bytes, full_table_bytes, parse_budget, plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10%", 100),
        ("256KiB", 262_144),
        ("1.5MB", 1_500_000),
        ("4 mib", 4_194_304),
        (1234, 1234),
        ("7B", 7),
        ("1e3", 1000),
    ],
)
def test_budgets_are_read(text: str | int, expected: int) -> None:
    assert parse_budget(text, full_bytes=1000) == expected


@pytest.mark.parametrize("text", ["", "ten", "10 parsecs", "-5%", "0", "%", "1,000"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        parse_budget(text, full_bytes=1000)


def test_the_denominator_is_the_fp32_full_table() -> None:
    vocabularies = [Vocabulary("a", 1000), Vocabulary("b", 24)]
    planned = plan("full", vocabularies, 16, options=TableOptions(rows="bf16"))
    assert planned.full_bytes == full_table_bytes(vocabularies, 16) == planned.build().float().ledger().bytes
    assert planned.ratio == pytest.approx(0.5, abs=0.01)
    assert plan("full", vocabularies, 16, "100%").ratio == 1.0
    with pytest.raises(InfeasibleBudget, match="smallest feasible"):
        plan("full", vocabularies, 16, "99%")


def test_planning_a_huge_table_allocates_nothing() -> None:
    vocabularies = [Vocabulary("user", 2_000_000_000), Vocabulary("item", 10**8)]
    planned = plan("unified", vocabularies, 64, "1%")
    assert planned.full_bytes > 500 * 10**9
    assert planned.serving.bytes <= 0.01 * planned.full_bytes
    assert planned.training.by_kind()["optimizer"] > planned.serving.bytes


def test_bytes_are_written_for_people() -> None:
    assert [format_bytes(n) for n in (0, 1023, 4 * 2**20, 5 * 2**40)] == ["0 B", "1023 B", "4.00 MiB", "5.00 TiB"]


@pytest.mark.parametrize("text", ["10", "0.5", " 100 "])
def test_a_small_number_without_a_unit_is_asked_about(text: str) -> None:
    with pytest.raises(ValueError, match=f"write {float(text):g}% for a share of the full table, or {float(text):g}B"):
        parse_budget(text, 10**6)
    assert parse_budget("10B", 10**6) == 10
    assert parse_budget("101", 10**6) == 101
    assert parse_budget(10, 10**6) == 10

"""A budget laid out for every method: what is counted, what is only a bound, and why there is no plan."""

from __future__ import annotations

import pytest
from rich.console import Console

from rectab.ops import MAX_ROWS
from rectab.schema import Vocabulary
from rectab.tables import get_method, methods, plan
from rectab.tables.plan_list import PlannedMethod, plan_all, plan_renderables

LEARNED = {method.name for method in methods() if method.size_after_training}


def printed(plans: list[PlannedMethod], budget: str = "10%") -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*plan_renderables(plans, 8, budget), sep="\n")
    return capture.get()


def test_a_learned_size_is_a_bound_and_not_a_count(vocabularies: list[Vocabulary]) -> None:
    assert {"dnis", "optembed"} <= LEARNED
    for entry in plan_all(vocabularies, 8, "10%"):
        if entry.plan is None:
            continue
        learned, plain, text = entry.method in LEARNED, entry.to_json(), printed([entry])
        assert entry.plan.at_most == plain["serving_at_most"] == learned
        assert (entry.collisions is not None) == (plain["expected_collisions"] is not None)
        assert entry.collisions is None or not learned
        assert (plain["serving_bytes_by_kind"] == {}) == learned
        assert text.count("at most") == (2 if learned else 0), "parts and the note"
        assert text.count("≤") == (2 if learned else 0), "overview and the note"
        assert "of budget" in text
        assert max(map(len, text.splitlines())) <= 80


def test_an_option_that_some_methods_lack_is_not_an_infeasible_budget(vocabularies: list[Vocabulary]) -> None:
    plans = {entry.method: entry for entry in plan_all(vocabularies, 8, "10%", None, {"num_chunks": 4})}
    assert plans["unified"].status == "planned"
    assert plans["unified"].plan is not None
    assert plans["unified"].plan.config.num_chunks == 4
    others = [entry for name, entry in plans.items() if "num_chunks" not in get_method(name).option_hints()]
    assert len(others) > 5
    assert {entry.status for entry in others} == {"no option"}
    assert {entry.error for entry in others} == {"no option 'num_chunks'"}
    assert "infeasible" not in printed(others)
    assert {entry.method: entry.status for entry in plan_all(vocabularies, 8, "10%")}["full"] == "infeasible"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (None, {"num_chunk": 4}, "no option 'num_chunk' of .*did you mean 'num_chunks'"),
        (["unified"], {"num_chunks": "abc"}, "unified.num_chunks must be a whole number, got 'abc'"),
        (["hashed"], {"num_chunks": 4}, "no option 'num_chunks' of hashed. There are: whole_below, seed"),
        (["full"], {"seed": 4}, "no option 'seed' of full. There are none"),
        (["unified"], {"num_chunks": 3}, "num_chunks 3 does not divide"),
        (["unifed"], {}, "did you mean 'unified'"),
    ],
)
def test_bad_options_are_named(
    vocabularies: list[Vocabulary], names: list[str] | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_all(vocabularies, 8, "10%", names, options)


def test_a_budget_that_nobody_can_read_is_an_error(vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(ValueError, match="budget 'ten' is not understood"):
        plan_all(vocabularies, 8, "ten")


def test_a_method_that_cannot_serve_the_vocabularies_says_so() -> None:
    hashed = [Vocabulary("any", 50, hashed=True)]
    statuses = {entry.method: entry.status for entry in plan_all(hashed, 8, "50%")}
    assert statuses == {m.name: "planned" if m.serves_any_id else "not possible" for m in methods()}
    assert len(set(statuses.values())) == 2
    with pytest.raises(ValueError, match="full needs a closed set of ids"):
        plan_all(hashed, 8, "50%", ["full"])


@pytest.mark.parametrize("budget", [None, "none", " None ", "full"])
def test_no_budget_is_the_methods_own_size(vocabularies: list[Vocabulary], budget: str | None) -> None:
    assert plan("hashed", vocabularies, 8, budget) == plan("hashed", vocabularies, 8)
    planned = plan_all(vocabularies, 8, budget)
    assert [entry.status for entry in planned] == ["planned"] * len(list(methods()))
    assert all(entry.plan is not None and entry.plan.budget_bytes is None for entry in planned)


def test_unified_takes_as_many_sub_tables_as_hold_the_budgets_rows() -> None:
    huge = [Vocabulary("user", 3 * MAX_ROWS), Vocabulary("item", MAX_ROWS)]
    for budget in ("45%", None):
        planned = plan("unified", huge, 16, budget)
        total = planned.config.num_tables * planned.config.rows_per_table
        assert 1 < planned.config.num_tables <= 4
        assert total > MAX_ROWS
        if budget:
            assert planned.budget_share == pytest.approx(1.0)
    one = plan("unified", huge, 16, MAX_ROWS * 8 * 4 + 32)
    assert (one.config.num_tables, one.config.rows_per_table) == (1, MAX_ROWS)
    two = plan("unified", huge, 16, (MAX_ROWS + 1) * 8 * 4 + 32)
    assert (two.config.num_tables, two.config.rows_per_table) == (2, (MAX_ROWS + 1) // 2)


def test_unified_has_no_more_sub_tables_than_pairs() -> None:
    planned = plan("unified", [Vocabulary("user", 100)], 16, 2**50)
    assert (planned.config.num_tables, planned.config.rows_per_table) == (2, MAX_ROWS)


@pytest.mark.parametrize("budget", ["60%", None])
def test_too_few_sub_tables_asked_for_are_an_error_that_names_the_option(budget: str | None) -> None:
    huge = [Vocabulary("user", 3 * MAX_ROWS), Vocabulary("item", MAX_ROWS)]
    with pytest.raises(ValueError, match=r"num_tables=1 holds at most \d+ rows; give more, or leave num_tables out"):
        plan("unified", huge, 16, budget, num_tables=1)
    with pytest.raises(ValueError, match="num_tables"):
        plan("unified", huge[1:], 16, budget, num_tables=0)


def test_few_values_that_share_rows_are_told() -> None:
    vocabularies = [Vocabulary("user", 400), Vocabulary("kind", 5), Vocabulary("big", 300)]
    (tight,) = plan_all(vocabularies, 4, "1%", ["hashed"])
    assert len(tight.squeezed) == 1
    assert tight.squeezed[0].startswith("kind: 5 in ")
    assert "kind: 5 in" in str(plan_renderables([tight], 4, "1%")[-1])
    (roomy,) = plan_all(vocabularies, 4, "60%", ["hashed"])
    assert roomy.squeezed == ()
    assert all(entry.squeezed == () for entry in plan_all(vocabularies, 4, "none", ["full", "unified"]))

"""Successive halving: who is trained, who stays, and what a short time does to it."""

from __future__ import annotations

from rectab.choosing.race import run_race

AUC = {"a": 0.70, "b": 0.72, "c": 0.71, "d": 0.60}


def test_the_better_half_stays_and_at_least_two() -> None:
    trained: list[tuple[str, int]] = []

    def measure(name: str, seed: int) -> float:
        trained.append((name, seed))
        return AUC[name] + 0.001 * seed

    race = run_race(list(AUC), measure, 3, lambda name, seed: 1.0, lambda: 1e9)
    assert race.left == ["b", "c"]
    assert race.rounds == [["a", "b", "c", "d"], ["b", "c"], ["b", "c"]]
    assert len(trained) == 8
    assert race.ended == "seeds"


def test_what_cannot_be_trained_leaves() -> None:
    race = run_race(["x", "a", "b"], lambda n, s: None if n == "x" else AUC[n], 2, lambda n, s: 1.0, lambda: 1e9)
    assert race.left == ["b", "a"]
    assert "x" not in race.auc


def test_one_that_is_left_alone_runs_every_seed_for_its_interval() -> None:
    race = run_race(["x", "a"], lambda n, s: None if n == "x" else AUC[n], 3, lambda n, s: 1.0, lambda: 1e9)
    assert sorted(race.auc["a"]) == [0, 1, 2]
    nobody = run_race(["x"], lambda n, s: None, 3, lambda n, s: 1.0, lambda: 1e9)
    assert (nobody.left, nobody.auc) == ([], {})


def test_without_time_the_first_one_is_trained_and_no_other() -> None:
    race = run_race(list(AUC), lambda n, s: AUC[n], 3, lambda n, s: 1.0, lambda: 0.0)
    assert list(race.auc) == ["a"]
    assert (race.left, race.ended) == (["a"], "time")


def test_time_that_ends_within_a_round_compares_on_seeds_that_both_ran() -> None:
    # The second seed is worse for all: only "a" runs it, and must not lose its place for that.
    spent = 0

    def measure(name: str, seed: int) -> float:
        nonlocal spent
        spent += 1
        return {"a": 0.72, "b": 0.71}[name] - 0.1 * seed

    race = run_race(["a", "b"], measure, 3, lambda n, s: 1.0, lambda: 3.0 - spent)
    assert {name: len(seeds) for name, seeds in race.auc.items()} == {"a": 2, "b": 1}
    assert (race.left, race.ended) == (["a", "b"], "time")


def test_what_is_there_already_costs_nothing() -> None:
    known = {("b", 0)}
    race = run_race(["a", "b", "c"], lambda n, s: AUC[n], 1, lambda n, s: float((n, s) not in known), lambda: 0.0)
    assert sorted(race.auc) == ["a", "b"]

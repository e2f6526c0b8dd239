"""Statistics of a sweep, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sweep_fakes import CONFIG, finished_sweep

from rectab.sweep.analysis import Curve, Section, sections_of
from rectab.sweep.charts import auc_against_bytes, method_styles
from rectab.sweep.report_tables import section_tables
from rectab.sweep.results import RESULT_COLUMNS, write_results
from rectab.sweep.statistics import estimate, t_quantile
from rectab.sweep.summary import answer


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227)]
)
def test_t_quantile_is_the_table_s(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-5)


def test_estimate_of_few_values() -> None:
    assert estimate([]) is None
    one = estimate([0.5])
    assert one is not None
    assert (one.mean, one.half_width, one.n, one.excludes_zero) == (0.5, None, 1, False)
    three = estimate([1.0, 2.0, 3.0])
    assert three is not None
    assert three.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert not three.excludes_zero


def test_curve_is_linear_over_log_bytes_and_never_extrapolates() -> None:
    curve = Curve.of([(10_000, 0.8), (100, 0.6)])
    assert curve.auc_at(1000) == pytest.approx(0.7)
    assert curve.bytes_at(0.7) == pytest.approx(1000)
    assert curve.bytes_at(0.81) is None
    assert curve.auc_at(90) is None
    assert curve.auc_at(20_000) is None
    assert curve.auc_at(10_200) == 0.8, "within the tolerance of an end point"
    assert curve.bytes_at(0.5) == 100
    assert curve.starts_above(0.5)
    assert not curve.starts_above(0.7)
    assert Curve(()).auc_at(5) is None


def test_bytes_at_takes_the_first_crossing_of_a_curve_that_falls() -> None:
    curve = Curve.of([(100, 0.6), (1000, 0.7), (10_000, 0.65)])
    assert curve.bytes_at(0.65) == pytest.approx(math.sqrt(100 * 1000))


def row(method: str, budget: str | None, seed: int, size: int, auc: float | None, **more: Any) -> dict[str, Any]:
    filled = dict.fromkeys(RESULT_COLUMNS) | {"dataset": "d", "model": "m", "method": method, "table": method}
    filled |= {"budget": budget, "seed": seed, "serving_bytes": size, "full_bytes": 1000, "auc": auc}
    filled |= {"budget_bytes": None if budget is None else size, "status": "ok" if auc else "failed"}
    return filled | more


def section(*rows: dict[str, Any]) -> Section:
    (only,) = sections_of(pl.DataFrame(list(rows), schema=RESULT_COLUMNS))
    return only


def two_seeds() -> Section:
    return section(
        row("full", None, 0, 1000, 0.80),
        row("full", None, 1, 1000, 0.82),
        row("hashed", "10%", 0, 100, 0.79),
        row("hashed", "10%", 1, 100, 0.81),
        row("hashed", "1%", 0, 10, 0.70),
        row("hashed", "1%", 1, 10, None),
        row("unified", "10%", 0, 99, 0.795),
        row("unified", "10%", 1, 99, 0.816),
    )


def test_differences_are_paired_by_seed() -> None:
    results = two_seeds()
    assert results.full is not None
    hashed, poor = results.cells_of("hashed")[1], results.cells_of("hashed")[0]
    difference = hashed.difference(results.full)
    assert difference is not None
    assert difference.mean == pytest.approx(-0.01)
    assert difference.half_width == pytest.approx(0, abs=1e-12), "seeds move both alike: pairing removes it"
    assert difference.excludes_zero
    alone = poor.difference(results.full)
    assert alone is not None
    assert (alone.n, alone.half_width) == (1, None), "the failed seed takes no part"


def test_pareto_front_keeps_only_what_nothing_beats() -> None:
    front = two_seeds().pareto
    assert [(cell.method, cell.budget) for cell in front] == [("hashed", "1%"), ("unified", "10%"), ("full", None)]


def test_equal_bytes_compares_at_the_fewest_bytes_used_of_a_budget() -> None:
    results = two_seeds()
    assert results.equal_bytes() == [10, 99]
    unified, hashed = results.auc_at_bytes("unified", 99), results.auc_at_bytes("hashed", 99)
    assert unified is not None
    assert hashed is not None
    assert unified.mean == pytest.approx(0.8055)
    assert 0.79 < hashed.mean < 0.80
    assert results.auc_at_bytes("unified", 10) is None


def test_answer_speaks_of_losses_seeds_and_the_smallest_table() -> None:
    text = " ".join(answer(two_seeds(), best_auc=0.85))
    assert "AUC of 0.8100 ±" in text
    assert "(2 seeds)" in text
    assert "0.8500" in text
    assert "unified loses 0.0045" in text
    assert "hashed loses 0.0100" in text
    assert "No smaller table measured here stays within 0.001" in text


def test_answer_without_a_full_table_or_any_finished_run() -> None:
    rising = "training ended with auc on validation still rising: its last evaluation was its best."
    told = section(row("full", None, 3, 1000, 0.8), row("hashed", "10%", 3, 100, 0.7, advice=rising))
    assert answer(told, None)[-1] == f"The settings may not suit 1 of 2 runs. hashed at 10%, seed 3: {rising}"
    assert "full table was not run" in answer(section(row("hashed", "10%", 0, 100, 0.7)), None)[0]
    assert "No run of this section finished" in answer(section(row("hashed", "10%", 0, 100, None)), None)[0]


def test_two_seeds_cannot_decide_and_do_not_stretch_the_axis(tmp_path: Path) -> None:
    """Their intervals are far wider than what lies between the tables: the axis follows the points."""
    sections = {}
    for seeds in ("[0, 1]", "[0, 1, 2]"):
        folder = tmp_path / seeds
        folder.mkdir()
        plan = finished_sweep(folder, CONFIG.replace("[0, 1, 2]", seeds))
        (sections[seeds],) = sections_of(write_results(plan))
    two, three = sections["[0, 1]"], sections["[0, 1, 2]"]
    verdicts = {row[5].text for row in section_tables(two)["paired"].rows}
    assert "two seeds: cannot decide" in verdicts
    assert "within the noise" not in verdicts
    assert any("Two seeds cannot decide" in sentence for sentence in answer(two, None))
    assert not any("cannot decide" in sentence for sentence in answer(three, None))
    low, high = auc_against_bytes(two, method_styles([two]), None)["layout"]["yaxis"]["range"]
    means = [cell.auc.mean for cell in two.cells]
    assert min(means) - 0.2 * (max(means) - min(means)) < low < min(means)
    assert max(means) < high < max(means) + 0.2 * (max(means) - min(means))

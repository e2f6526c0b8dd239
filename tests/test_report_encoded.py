"""The report of tables that were encoded after training: predicted and measured losses, and what is small to train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sweep_fakes import CONFIG, fake_run, finished_sweep

from rectab.sweep.analysis import sections_of
from rectab.sweep.charts import method_styles
from rectab.sweep.encoded_report import encoded_table, expected_chart
from rectab.sweep.grid import RunSpec
from rectab.sweep.report import write_report
from rectab.tables import registry

FULL = 0.8


def encoding_run(spec: RunSpec, work: Path) -> dict[str, Any]:
    """``hashed`` stands for a method whose table is encoded: half of what is lost was foretold."""
    result = fake_run(spec, work)
    if spec.method == "hashed":
        lost = FULL - result["valid"]["auc"]
        result["encoded"] = {
            "embedding_dim": 8 if spec.budget == "50%" else 4,
            "full_valid": {"auc": FULL},
            "expected": {"auc": FULL - lost / 2},
            "seconds": {"options": 2.0, "encoding": 1.0},
        }
    return result


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    record = replace(registry.get_method("hashed"), needs_full_table=True)
    monkeypatch.setitem(registry._RECORDS, "hashed", record)
    finished_sweep(tmp_path, CONFIG, runner=encoding_run)
    write_report(tmp_path / "out")
    return pl.read_parquet(tmp_path / "out" / "results.parquet")


def test_losses_are_told_as_predicted_and_as_measured(results: pl.DataFrame, tmp_path: Path) -> None:
    encoded = results.filter(pl.col("table") == "hashed")
    assert encoded["encoding_seconds"].to_list() == [3.0] * 9
    assert encoded["encoded_dim"].to_list() == [8] * 3 + [4] * 6
    assert results.filter(pl.col("table") != "hashed")["full_valid_auc"].is_null().all()
    (section,) = sections_of(results)
    table = encoded_table(section)
    assert [row[1].text for row in table.rows] == ["50%", "10%", "2%"]
    assert [row[4].text for row in table.rows] == ["8, 8, 8", "4, 4, 4", "4, 4, 4"]
    for row, cell in zip(table.rows, reversed(section.cells_of("hashed")), strict=True):
        measured = FULL - sum(r["valid_auc"] for r in cell.rows.values()) / 3
        assert row[5].sort == pytest.approx(measured / 2)
        assert row[6].sort == pytest.approx(measured)
        assert row[7].text.startswith("−0.")
        assert row[9].sort == pytest.approx(3.0)
    assert table.rows[0][6].text in (tmp_path / "out" / "report.md").read_text()


def test_a_point_a_run_is_drawn_against_the_prediction(results: pl.DataFrame) -> None:
    (section,) = sections_of(results)
    chart = expected_chart(section, method_styles([section]))
    assert chart is not None
    diagonal, points = chart["data"]
    assert len(points["x"]) == 9
    assert points["y"] == pytest.approx([2 * x for x in points["x"]])
    assert diagonal["x"] == diagonal["y"] == [min(points["x"]), max(points["y"])]
    plain = results.with_columns(full_valid_auc=None, expected_valid_auc=None)
    assert expected_chart(sections_of(plain)[0], method_styles([section])) is None


def test_what_is_small_to_train_stands_apart(results: pl.DataFrame, tmp_path: Path) -> None:
    (section,) = sections_of(results)
    assert (section.methods_of(True), section.methods_of(False)) == (["hashed"], ["unified"])
    page = (tmp_path / "out" / "report.html").read_text()
    small_to_serve = page.index("Small to serve: trained as a full table")
    small_to_train = page.index("Small to train, and to serve")
    assert page.index('id="s0-auc-serve"') > small_to_serve
    assert page.index('id="s0-auc"') > small_to_train
    legend = page[small_to_serve : page.index('id="s0-auc-serve"')]
    assert "hashed" in legend
    assert "unified" not in legend

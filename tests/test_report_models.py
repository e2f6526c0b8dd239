"""Models against each other with RelaImpr, training settings by model, and the charts of attention."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sweep_fakes import CONFIG, fake_run, finished_sweep
from test_report_page import browser, open_page  # noqa: F401

from rectab.metrics import relative_improvement
from rectab.sweep.analysis import Section, sections_of
from rectab.sweep.attention_charts import attention_charts, attention_table
from rectab.sweep.config import SweepConfigError, load_config
from rectab.sweep.grid import RunSpec
from rectab.sweep.model_tables import base_of, improvement, model_comparisons
from rectab.sweep.report import write_report
from rectab.sweep.results import collect_results
from rectab.sweep.sweep import SweepPlan

MODELS = """
[[models]]
model = "mlp"
history = "din"
name = "DIN <b>"
training = { embedding_l2 = 0.5, embedding_l2_mode = "minibatch" }

[[models]]
model = "mlp"
history = "mean"
name = "base"

[[models]]
model = "mlp"
name = "no history"
"""
TEXT = CONFIG.replace('\n[[models]]\nmodel = "deepfm"\n', MODELS)
GAIN = {"din": 0.02, "mean": 0.0, "none": -0.01}


def _event(weight: float, item: str, genre: str) -> dict[str, Any]:
    return {"weight": weight, "values": {"seen_item": item, "seen_genre": genre}}


EVENTS = [_event(0.01 * k, f"i{k}", "comedy") for k in range(9)]
EVENTS += [_event(-0.5, "i<9>", "drama"), _event(0.3, "i1", "drama")]
SEEN = {"behaviour": "seen", "targets": {"seen_item": "i<9>", "seen_genre": "drama"}, "total": 0.75}
LIKED = {"behaviour": "liked", "targets": {"liked_item": "i<9>"}, "total": 0.0}
EXPLAINED = {
    "dataset": "clicks",
    "split": "valid",
    "row": 17,
    "label": 1.0,
    "probability": 0.61,
    "weights": "raw",
    "features": {"user": "u1"},
    "behaviours": [SEEN | {"left_out": 4, "events": EVENTS}, LIKED | {"left_out": 0, "events": []}],
}


def _run(spec: RunSpec, work: Path) -> dict[str, Any]:
    result = fake_run(spec, work)
    for metrics in (result["valid"], result["test"]):
        metrics["auc"] += GAIN[spec.history]
    result["test"]["gauc"] += 2 * GAIN[spec.history]
    kept = [EXPLAINED] if spec.history == "din" and spec.method == "full" else []
    return result | {"attention": kept}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    path = tmp_path_factory.mktemp("models")

    def failures(spec: RunSpec) -> str | None:
        return "boom" if (spec.history, spec.method, spec.budget, spec.seed) == ("din", "hashed", "2%", 1) else None

    made = finished_sweep(path, TEXT, _run, failures)
    write_report(path / "out")
    return made


@pytest.fixture(scope="module")
def sections(sweep: SweepPlan) -> list[Section]:
    return sections_of(collect_results(sweep))


def test_relative_improvement_is_paired_by_seed_against_the_base(sweep: SweepPlan, sections: list[Section]) -> None:
    (comparison,) = model_comparisons(sections)
    assert comparison.base == "base"
    assert "The base model is base." in comparison.table.note
    titles = [column.title for column in comparison.table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in comparison.table.rows]
    cells = 1 + 2 * 3  # full, and hashed and unified at three budgets
    assert len(rows) == 3 * cells
    results = pl.read_parquet(sweep.store.folder / "results.parquet").filter(pl.col("status") == "ok")
    for row in rows:
        budget = None if row["Budget"].text == "none" else row["Budget"].text
        own = results.filter(pl.col("method") == row["Table"].text, pl.col("budget").eq_missing(budget))
        pairs = own.filter(pl.col("model") == row["Model"].text).join(own.filter(pl.col("model") == "base"), on="seed")
        assert (
            row["Seeds"].sort
            == pairs.height
            == (2 if (row["Model"].text, row["Table"].text, budget) == ("DIN <b>", "hashed", "2%") else 3)
        )
        if row["Model"].text == "base":
            assert row["Verdict"].text == "base model"
            continue
        for metric in ("auc", "gauc"):
            expected = ((pairs[metric] - 0.5) / (pairs[f"{metric}_right"] - 0.5) - 1).mean() * 100
            assert row[f"RelaImpr of {metric.upper()}"].sort == pytest.approx(expected)
            assert row[f"{metric.upper()} − base"].sort == pytest.approx(
                (pairs[metric] - pairs[f"{metric}_right"]).mean()
            )
        assert row["Verdict"].text == ("better" if row["Model"].text == "DIN <b>" else "worse")


def test_improvement_leaves_out_seeds_that_one_of_them_lacks(sections: list[Section]) -> None:
    din, base = sections[0], base_of(sections)
    cell = next(c for c in din.cells if (c.method, c.budget) == ("hashed", "2%"))
    reference = next(c for c in base.cells if (c.method, c.budget) == ("hashed", "2%"))
    found = improvement(cell, reference, "auc")
    assert found is not None
    assert found.n == 2
    expected = [relative_improvement(cell.rows[s]["auc"], reference.rows[s]["auc"]) for s in (0, 2)]
    assert found.mean == pytest.approx(np.mean(expected))


def test_the_base_is_the_mean_then_no_history_then_the_first(sections: list[Section]) -> None:
    assert base_of(sections).model == "base"
    assert base_of([sections[0], sections[2]]).model == "no history"
    assert base_of(sections[:1]).model == "DIN <b>"
    assert model_comparisons(sections[:1]) == []


def test_the_reports_hold_the_comparison_and_escape_names(sweep: SweepPlan) -> None:
    text, page = ((sweep.store.folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "## Models against each other: clicks" in text
    assert "RelaImpr of GAUC" in text
    assert text.count("attention weights: raw") == 1  # DIN's; the other towers have none
    assert 'id="models0-models"' in page
    assert "DIN <b>" not in page
    assert "i<9>" not in page[: page.index("<script>")]


def test_a_models_training_settings_override_the_sweeps(sweep: SweepPlan, tmp_path: Path) -> None:
    by_history = {spec.history: spec.training for spec in sweep.runs()}
    assert by_history["din"] == {"lr": 0.001, "embedding_l2": 0.5, "embedding_l2_mode": "minibatch"}
    assert by_history["mean"] == {"lr": 0.001}
    assert "embedding_l2_mode = &#34;minibatch&#34;" in (sweep.store.folder / "report.html").read_text()
    (tmp_path / "bad.toml").write_text(TEXT.replace("embedding_l2 = 0.5", "embeding_l2 = 0.5"))
    with pytest.raises(
        SweepConfigError, match=r"models\[0\]\.training: unknown key 'embeding_l2'; did you mean 'embedding_l2'"
    ):
        load_config(tmp_path / "bad.toml")


def test_attention_is_drawn_from_the_run_that_kept_it(sweep: SweepPlan, sections: list[Section]) -> None:
    kept = {spec.hash: (sweep.store.read_run(spec.hash) or {})["result"]["attention"] for spec in sweep.runs()}
    (chart,) = attention_charts(sections[0], kept)  # the behaviour without events is not drawn
    bars = chart.figure["data"][0]
    assert bars["x"] == list(range(-11, 0))
    assert bars["y"] == [event["weight"] for event in EVENTS]
    assert bars["marker"]["color"] == ["var(--muted)"] * 9 + ["var(--series-1)"] * 2
    assert "seen_genre drama (as the target)" in bars["text"][-1]
    assert "i&lt;9&gt;" in bars["text"][-2]
    assert "4 older events are not drawn" in chart.note
    assert len(chart.figure["layout"]["xaxis"]["tickvals"]) == len(chart.figure["layout"]["xaxis"]["ticktext"])
    table = attention_table(sections[0], kept)
    assert [(row[4].sort, row[5].sort) for row in table.rows] == [(2, -0.5), (1, 0.3), (3, 0.08), (4, 0.07), (5, 0.06)]
    assert attention_charts(sections[1], kept) == []
    assert attention_table(sections[1], kept).rows == []
    assert attention_charts(sections[0], {}) == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_attention_is_drawn_within_the_page(browser: Any, sweep: SweepPlan, width: int) -> None:  # noqa: F811
    problems: list[str] = []
    page = open_page(browser, sweep.store.folder, width, problems)
    ids = page.evaluate("[...document.querySelectorAll('.chart[id*=attention]')].map((e) => e.id)")
    assert ids == ["s0-attention-0-0"]
    assert page.locator("#s0-attention-0-0 .bars .point").count() == 11
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overlapping = page.evaluate(
        """() => {
            const boxes = [...document.querySelectorAll('#s0-attention-0-0 .xtick text')]
                .map((t) => t.getBoundingClientRect()).sort((a, b) => a.left - b.left);
            return boxes.slice(1).filter((b, i) => b.left < boxes[i].right).length;
        }"""
    )
    assert overlapping == 0
    assert not [p for p in problems if not re.search("GPU|GL Driver", p)]

"""The report's charts of what tables learned: true to the run files, and drawn in a real browser at any width."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweep_fakes import CONFIG, fake_dataset, fake_run, finished_sweep
from test_report_page import browser, open_page  # noqa: F401

from rectab.schema import Vocabulary
from rectab.sweep.analysis import sections_of
from rectab.sweep.charts import method_styles
from rectab.sweep.grid import RunSpec
from rectab.sweep.learned_charts import LearnedChart, learned_charts
from rectab.sweep.report import write_report
from rectab.sweep.results import collect_results
from rectab.sweep.sweep import SweepPlan
from rectab.tables import plan
from rectab.tables.base import TableOptions
from rectab.tables.dnis import DNISTable
from rectab.tables.optembed import OptEmbedTable

LEARNED = CONFIG.replace('method = "hashed"', 'method = "optembed"\nname = "<b>opt</b>"').replace("unified", "dnis")
LEARNED = LEARNED.replace("[training]", '[[methods]]\nmethod = "hashed"\n\n[training]')


def _vocabularies() -> list[Vocabulary]:
    return [
        Vocabulary(name, size, counts=np.arange(size)[::-1].copy())
        for name, size in fake_dataset().vocabularies.items()
    ]


def _learned(spec: RunSpec) -> dict[str, Any]:
    """What a table of the method would report, had training left it as it starts (but for a few values set here)."""
    table = plan(
        spec.method, _vocabularies(), spec.embedding_dim, spec.budget, options=TableOptions(seed=spec.seed)
    ).build()
    if isinstance(table, OptEmbedTable):
        table.serving()  # enters the shape that fills the budget
        table.widths[0] = 3 + spec.seed
        for step in (1, 2, 3):
            table.threshold_curve.add(step, torch.full((3,), 0.01 * step))
        return table.summarize({"best_fitness": [0.7, 0.71], "candidates": 20, "seconds": 1.0})
    assert isinstance(table, DNISTable)
    with torch.no_grad():
        table.alpha[1:] = torch.linspace(0, 1, 8)
    for step in (1, 2):
        table.alpha_curve.add(step, table.alpha.mean(1) / step)
    return table.serving().learned()


def _run(spec: RunSpec, work: Path) -> dict[str, Any]:
    if spec.method not in ("optembed", "dnis"):
        return fake_run(spec, work)
    plain = RunSpec(**{**vars(spec), "method": "hashed", "method_options": {}, "budget": spec.budget or "90%"})
    return fake_run(plain, work) | {"learned": _learned(spec)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    path = tmp_path_factory.mktemp("learned")
    made = finished_sweep(path, LEARNED, _run)
    write_report(path / "out")
    return made


@pytest.fixture(scope="module")
def charts(sweep: SweepPlan) -> dict[str, LearnedChart]:
    sections = sections_of(collect_results(sweep))
    learned = {spec.hash: (sweep.store.read_run(spec.hash) or {})["result"].get("learned") for spec in sweep.runs()}
    made = learned_charts(sections[0], learned, method_styles(sections))
    return {f"{chart.method} {re.sub('learned-[0-9]+-', '', chart.key)}": chart for chart in made}


def test_every_method_that_learned_is_drawn_and_no_other(charts: dict[str, LearnedChart]) -> None:
    opt, dnis = "<b>opt</b>", "dnis"
    expected = {f"{opt} {key}" for key in ("deciles", "widths", "kept", "thresholds", "search")}
    assert set(charts) == expected | {f"{dnis} {key}" for key in ("deciles", "alpha", "alpha-curve")}
    assert len({chart.key for chart in charts.values()}) == len(charts)


def test_heat_maps_show_means_over_seeds(sweep: SweepPlan, charts: dict[str, LearnedChart]) -> None:
    trace = charts["<b>opt</b> widths"].figure["data"][0]
    runs = [
        (sweep.store.read_run(spec.hash) or {})["result"]["learned"]
        for spec in sweep.runs()
        if spec.method == "optembed" and spec.budget == "10%"
    ]
    column = charts["<b>opt</b> widths"].figure["layout"]["xaxis"]["ticktext"].index("10%")
    assert trace["z"][0][column] == pytest.approx(sum(run["widths"]["user"] for run in runs) / 3) == 4
    deciles = charts["<b>opt</b> deciles"].figure["data"][0]
    row = charts["<b>opt</b> deciles"].figure["layout"]["yaxis"]["ticktext"].index("10%")
    expected = np.mean([run["kept_rows_by_frequency_decile"] for run in runs], axis=0) * 100
    assert deciles["z"][row] == pytest.approx(list(expected))


def test_alpha_is_drawn_block_by_block(charts: dict[str, LearnedChart]) -> None:
    figure = charts["dnis alpha"].figure
    assert np.shape(figure["data"][0]["z"]) == (5, 8)
    assert figure["data"][0]["z"][0] == [1.0] * 8
    assert figure["layout"]["yaxis"]["ticktext"][0] == "0–10 %"
    assert figure["layout"]["yaxis"]["autorange"] == "reversed", "the most frequent ids on top"


def test_a_vocabulary_without_rows_has_no_dimensions(sweep: SweepPlan) -> None:
    sections = sections_of(collect_results(sweep))
    spec = next(spec for spec in sweep.runs() if spec.method == "optembed")
    learned = {spec.hash: {"kept_rows": {"a": 0.0, "b": 0.5}, "widths": {"a": 4, "b": 2}}}
    made = learned_charts(sections[0], learned, method_styles(sections))
    assert [row[0] for row in made[0].figure["data"][0]["z"]] == [0, 2]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_charts_are_drawn_within_the_page(browser: Any, sweep: SweepPlan, width: int) -> None:  # noqa: F811
    problems: list[str] = []
    page = open_page(browser, sweep.store.folder, width, problems)
    ids = page.evaluate("[...document.querySelectorAll('.chart[id*=learned]')].map((e) => e.id)")
    assert len(ids) == 8
    for key in ids:
        assert page.locator(f"#{key} .main-svg").count() > 0, key
    assert page.locator("[id*=learned] .heatmaplayer image").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = page.evaluate(
        """() => [...document.querySelectorAll('[id*=learned]')].flatMap((chart) => {
            const box = chart.getBoundingClientRect();
            return [...chart.querySelectorAll('.xtick text, .ytick text')]
                .map((t) => [t.textContent, t.getBoundingClientRect()])
                .filter(([_, b]) => b.left < box.left - 1 || b.right > box.right + 1)
                .map(([text, _]) => chart.id + ': ' + text);
        })"""
    )
    assert clipped == []
    assert problems == []

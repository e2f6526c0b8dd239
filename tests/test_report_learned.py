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
from rectab.tables.findings import by_vocabulary, curve
from rectab.tables.optembed import OptEmbedTable

LEARNED = CONFIG.replace('method = "hashed"', 'method = "optembed"\nname = "<b>opt</b>"').replace("unified", "dnis")
LEARNED = LEARNED.replace("[training]", '[[methods]]\nmethod = "hashed"\n\n[training]')


def _vocabularies() -> list[Vocabulary]:
    return [
        Vocabulary(name, size, counts=np.arange(size)[::-1].copy())
        for name, size in fake_dataset().vocabularies.items()
    ]


def _learned(spec: RunSpec) -> list[dict[str, Any]]:
    """What a table of the method would report, had training left it as it starts (but for a few values set here)."""
    table = plan(
        spec.method, _vocabularies(), spec.embedding_dim, spec.budget, options=TableOptions(seed=spec.seed)
    ).build()
    if isinstance(table, OptEmbedTable):
        table.serving()  # enters the shape that fills the budget
        table.widths[0] = 3 + spec.seed
        for step in (1, 2, 3):
            table.threshold_curve.add(step, torch.full((3,), 0.01 * step))
        return [found.to_json() for found in table.findings({"best_fitness": [0.7, 0.71]})]
    assert isinstance(table, DNISTable)
    with torch.no_grad():
        table.alpha[1:] = torch.linspace(0, 1, 8)
    for step in (1, 2):
        table.alpha_curve.add(step, table.alpha.mean(1) / step)
    return [found.to_json() for found in table.serving().learned()]


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
    keys = {
        opt: ("rows-kept-by-id-frequency", "dimensions-per-field", "rows-kept-per-field", "thresholds-over-training"),
        dnis: ("entries-kept-by-id-frequency", "soft-selection", "selection-over-the-search"),
    }
    expected = {f"{method} {key}" for method, of_method in keys.items() for key in of_method}
    assert set(charts) == expected | {f"{opt} search-for-dimensions"}
    assert len({chart.key for chart in charts.values()}) == len(charts)


def test_heat_maps_show_means_over_seeds(sweep: SweepPlan, charts: dict[str, LearnedChart]) -> None:
    widths = charts["<b>opt</b> dimensions-per-field"].figure
    runs = [
        {f["title"]: f["values"] for f in (sweep.store.read_run(spec.hash) or {})["result"]["learned"]}
        for spec in sweep.runs()
        if spec.method == "optembed" and spec.budget == "10%"
    ]
    column = widths["layout"]["xaxis"]["ticktext"].index("10%")
    users = [run["Dimensions per field"]["values"][0] for run in runs]
    assert _cells(widths)[0][column] == pytest.approx(sum(users) / 3) == 4
    figure = charts["<b>opt</b> rows-kept-by-id-frequency"].figure
    deciles, row = _cells(figure), figure["layout"]["yaxis"]["ticktext"].index("10%")
    expected = np.mean([run["Rows kept by id frequency"]["values"] for run in runs], axis=0) * 100
    assert deciles[row] == pytest.approx(list(expected))


def _cells(figure: dict[str, Any]) -> list[list[float]]:
    """Rows of a heat map, as its bars lie."""
    (trace,) = figure["data"]
    rows: dict[int, dict[int, float]] = {}
    for x, base, height, value in zip(trace["x"], trace["base"], trace["y"], trace["marker"]["color"], strict=True):
        rows.setdefault(round(base + height / 2), {})[x] = value
    return [[rows[y][x] for x in sorted(rows[y])] for y in sorted(rows)]


def test_alpha_is_drawn_block_by_block(charts: dict[str, LearnedChart]) -> None:
    figure = charts["dnis soft-selection"].figure
    assert np.shape(_cells(figure)) == (5, 8)
    assert _cells(figure)[0] == [1.0] * 8
    assert figure["layout"]["yaxis"]["ticktext"][0] == "0–10 %"
    bottom, top = figure["layout"]["yaxis"]["range"]
    assert bottom > top, "the most frequent ids on top"


def test_findings_are_drawn_by_kind_whatever_the_method(sweep: SweepPlan) -> None:
    """Also a curve of one line, drawn for all sizes, and what a run kept before there were findings."""
    section = sections_of(collect_results(sweep))[0]
    method = next(m for m in section.methods if m == "hashed")
    cells = [cell for cell in section.cells_of(method) if cell.rows]
    learned: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        for row in cell.rows.values():
            line = curve("A line", "It rises.", ("step", "height"), range(1, 4 + number), ["h"], [[0.1]] * (3 + number))
            table = by_vocabulary("A number", "Of each.", "things", {"a": 1.5, "b": number})
            learned[row["hash"]] = [line.to_json(), table.to_json()]
    learned[next(iter(cells[-1].rows.values()))["hash"]] = {"widths": {"a": 4}}
    made = {chart.title: chart for chart in learned_charts(section, learned, method_styles([section]))}
    assert set(made) == {"A line", "A number"}
    lines = made["A line"].figure["data"]
    assert [line["name"] for line in lines] == [cell.budget or "no budget" for cell in reversed(cells)]
    assert max(len(line["x"]) for line in lines) == 2 + len(cells)
    assert made["A number"].figure["layout"]["yaxis"]["ticktext"] == ["a", "b"]
    assert made["A number"].figure["data"][0]["hovertext"][0].startswith("a at ")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_charts_are_drawn_within_the_page(browser: Any, sweep: SweepPlan, width: int) -> None:  # noqa: F811
    problems: list[str] = []
    page = open_page(browser, sweep.store.folder, width, problems)
    ids = page.evaluate("[...document.querySelectorAll('.chart[id*=learned]')].map((e) => e.id)")
    assert len(ids) == 8
    for key in ids:
        assert page.locator(f"#{key} .main-svg").count() > 0, key
    assert page.locator("[id*=learned] .barlayer .trace").count() == 5
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

"""The report: true to the results, safe with any name, and usable in a real browser, offline, at any width."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sweep_fakes import CONFIG, finished_sweep

from rectab.sweep.analysis import sections_of
from rectab.sweep.grid import RunSpec
from rectab.sweep.overview import rank_table, write_overview
from rectab.sweep.report import write_report
from rectab.sweep.store import SweepFolderError

HOSTILE = "<script>alert('1')</script>|x"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a hostile method name, a failed run and an infeasible budget, and its report."""
    path = tmp_path_factory.mktemp("report")
    text = CONFIG.replace('"2%"]', '"5%", "2%", "16B"]').replace(
        'method = "hashed"', f'method = "hashed"\nname = "{HOSTILE}"'
    )

    def failures(spec: RunSpec) -> str | None:
        return f"boom {HOSTILE}" if (spec.method, spec.budget, spec.seed) == ("hashed", "5%", 1) else None

    finished_sweep(path, text, failures=failures)
    write_report(path / "out")
    return path / "out"


def test_markdown_holds_the_measured_numbers(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    results = pl.read_parquet(folder / "results.parquet")
    full = results.filter(pl.col("table") == "full")["auc"].mean()
    assert f"AUC of {full:.4f}" in text
    assert "best possible AUC on these rows, that of the true click probability, is 0.8100" in text
    assert "boom" in text
    assert "smallest feasible" in text
    assert f"{(results['status'] == 'ok').sum()} of {results.height} runs finished, 1 failed, 6 infeasible" in text
    assert "<script>" not in text, "a name cannot become markup"


def test_failed_run_has_no_number_even_if_it_had_a_result(folder: Path) -> None:
    failed = pl.read_parquet(folder / "results.parquet").filter(pl.col("status") == "failed")
    assert failed.height == 1
    assert failed["auc"].to_list() == failed["serving_bytes"].to_list() == [None]


def test_page_is_self_contained_and_escaped(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "Plotly" in page
    head = page[: page.index("<script>")]
    for outside in ('<link rel="stylesheet"', 'src="http', "@import"):
        assert outside not in head


def test_file_is_small(folder: Path) -> None:
    assert (folder / "report.html").stat().st_size < 1_500_000


def test_report_of_no_sweep_says_so(tmp_path: Path) -> None:
    with pytest.raises(SweepFolderError, match=r"no sweep\.json"):
        write_report(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the report was not tried in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()


def open_page(browser: Any, folder: Path, width: int, problems: list[str], **options: Any) -> Any:
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    context.set_default_timeout(120_000)  # milliseconds; a browser on a busy machine may take its time
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_selector("#s0 .chart.main .main-svg")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_function("[...document.querySelectorAll('.chart')].every((e) => e.querySelector('.main-svg'))")
    return page


@pytest.mark.browser
def test_tooltips_and_sorting_work_offline(browser: Any, folder: Path) -> None:
    problems: list[str] = []
    page = open_page(browser, folder, 1280, problems)
    point = page.locator("#s0-auc .scatterlayer .trace").last.locator(".points path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#s0-auc .hoverlayer .hovertext")
    tip.wait_for()
    assert "unified at" in tip.text_content()
    assert "AUC 0.7" in tip.text_content()
    assert "KiB" in tip.text_content()

    header = page.locator("#s0-results th", has_text="Logloss")

    def column() -> list[float]:
        cells = page.locator("#s0-results tbody tr td:nth-child(7)").all_text_contents()
        return [float(text.split()[0]) for text in cells]

    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    header.locator("button").click()
    assert column() == sorted(column(), reverse=True)
    assert problems == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_page(browser: Any, folder: Path, width: int, scheme: str) -> None:
    problems: list[str] = []
    page = open_page(browser, folder, width, problems, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter((e) => !e.closest('.scroll table') && !e.closest('pre code') && !e.closest('svg'))
            .filter((e) => e.getBoundingClientRect().width > 0)
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
            .map((e) => e.tagName + '.' + e.className)"""
    )
    assert outside == []
    overlapping = page.evaluate(
        """() => [...document.querySelectorAll('.chart')].flatMap((chart) => {
            const boxes = [...chart.querySelectorAll('.xtick text')].map((t) => t.getBoundingClientRect())
                .sort((a, b) => a.left - b.left);
            return boxes.slice(1).filter((b, i) => b.left < boxes[i].right).map(() => chart.id);
        })"""
    )
    assert overlapping == []
    assert problems == []


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_recommendation_and_picture_are_on_the_first_screen(
    browser: Any, folder: Path, width: int, height: int
) -> None:
    page = browser.new_context(viewport={"width": width, "height": height}, offline=True).new_page()
    page.goto((folder / "report.html").as_uri())
    page.wait_for_selector("#s0 .chart.main .main-svg")
    assert page.locator("#s0 .answer").bounding_box()["y"] < height / 3
    chart = page.locator("#s0 .chart.main").bounding_box()
    assert chart["y"] + chart["height"] <= height
    assert page.locator("#s0 details[open]").count() == 0


def test_overview_ranks_methods_by_budget(folder: Path, tmp_path: Path) -> None:
    page = write_overview([folder, folder], tmp_path / "overview.html").read_text()
    assert "<script>alert" not in page
    (section,) = sections_of(pl.read_parquet(folder / "results.parquet"))
    table = rank_table([section, section])
    column = [c.title for c in table.columns].index("2%")
    ranks = {row[0].method: row[column] for row in table.rows}
    auc = {cell.method: cell.auc.mean for cell in section.cells if cell.budget == "2%"}
    best = max(auc, key=lambda method: auc[method])
    assert ranks[best].text.startswith("1.0 (2)")
    assert all(value.sort >= 1 for value in ranks.values() if value.sort is not None)
    with pytest.raises(SweepFolderError):
        write_overview([folder, tmp_path], tmp_path / "overview.html")


@pytest.mark.browser
def test_overview_is_drawn(browser: Any, folder: Path, tmp_path: Path) -> None:
    write_overview([folder], tmp_path / "overview.html")
    page = browser.new_context(viewport={"width": 390, "height": 844}, offline=True).new_page()
    page.goto((tmp_path / "overview.html").as_uri())
    page.wait_for_selector("#o0 .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

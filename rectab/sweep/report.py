"""The report of a sweep: one HTML file that opens offline, the same in Markdown, and the results as parquet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rectab.atomic_file import write_atomic
from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Section, sections_of
from rectab.sweep.attention_charts import AttentionChart, attention_charts, attention_table
from rectab.sweep.charts import auc_against_bytes, method_styles, ndcg_against_bytes, slice_charts
from rectab.sweep.encoded_report import encoded_table, expected_chart
from rectab.sweep.grid import DatasetInfo
from rectab.sweep.learned_charts import LearnedChart, learned_charts
from rectab.sweep.model_tables import model_comparisons
from rectab.sweep.pages import assets, template
from rectab.sweep.plan import SweepPlan, plan_from_folder
from rectab.sweep.report_costs import every_run
from rectab.sweep.report_tables import section_tables
from rectab.sweep.report_values import ReportTable
from rectab.sweep.results import write_results
from rectab.sweep.row_intervals import RowIntervals
from rectab.sweep.store import SweepFolderError
from rectab.sweep.summary import answer, recommendation, status_counts
from rectab.sweep.timing import TimesByCell, auc_against_time, read_times, timing_table
from rectab.sweep.tuning import validation_auc
from rectab.training.run import model_config

__all__ = ["write_report"]


def write_report(out_dir: Path | str, timing: Path | str | None = None) -> Path:
    """Rebuild ``report.html``, ``report.md`` and ``results.parquet`` from the run files of a sweep.

    Args:
        out_dir: the sweep's folder.
        timing: a result of ``make bench``, whose times of tables are drawn beside their AUC.

    Returns:
        Path of ``report.html``.

    Raises:
        SweepFolderError: it is not the folder of a sweep, or no run has finished.
        ValueError: ``timing`` is not a result of ``make bench``.
    """
    times = {} if timing is None else read_times(timing)
    plan = plan_from_folder(Path(out_dir))
    results = write_results(plan)
    if results.is_empty():
        raise SweepFolderError(f"{out_dir}: no run of the present configuration has finished")
    content = _content(plan, results, times)
    write_atomic(plan.store.folder / "report.md", template("report.md.j2").render(content))
    path = plan.store.folder / "report.html"
    write_atomic(path, template("report.html.j2").render(content, **assets()))
    return path


@dataclass(frozen=True)
class MainChart:
    """AUC against bytes, of all methods or of those of one kind.

    Attributes:
        key: of the element in the page, with the section's key before it.
        title: what its methods have in common.
        methods: for the legend.
        figure: for plotly.js.
    """

    key: str
    title: str
    methods: list[str]
    figure: dict[str, Any]


@dataclass(frozen=True)
class _SectionView:
    """What the templates need of a section."""

    key: str
    section: Section
    dataset: DatasetInfo
    recommendation: list[str]
    answer: list[str]
    tables: dict[str, ReportTable]
    runs: ReportTable
    main_charts: list[MainChart]
    expected: dict[str, Any] | None
    timing: dict[str, Any] | None
    slices: list[dict[str, Any]]
    learned: list[LearnedChart]
    attention: list[AttentionChart]

    @property
    def title(self) -> str:
        return f"{self.section.dataset}: {self.section.model}"


def _content(plan: SweepPlan, results: pl.DataFrame, times: TimesByCell) -> dict[str, Any]:
    sections = sections_of(results)
    styles = method_styles(sections)
    datasets = {info.name: info for info in plan.datasets}
    kept = _kept(plan, results)
    views = [
        _view(f"s{i}", section, plan, datasets[section.dataset], styles, kept, times)
        for i, section in enumerate(sections)
    ]
    counts = status_counts(sections)
    charts = {f"{view.key}-{chart.key}": chart.figure for view in views for chart in view.main_charts}
    charts |= {f"{view.key}-expected": view.expected for view in views if view.expected}
    charts |= {f"{view.key}-timing": view.timing for view in views if view.timing}
    charts |= {f"{view.key}-{chart['slice']}": chart for view in views for chart in view.slices}
    charts |= {f"{view.key}-{chart.key}": chart.figure for view in views for chart in view.learned}
    charts |= {f"{view.key}-{chart.key}": chart.figure for view in views for chart in view.attention}
    return {
        "title": plan.config.title or "AUC against bytes",
        "views": views,
        "comparisons": model_comparisons(sections),
        "styles": styles,
        "counts": counts,
        "expected": len(plan.runs()),
        "charts": charts,
        "failures": _failures(results),
        "tuning": _tuning(plan),
        "training": _training(plan),
        "environment": _circumstances(results),
        "datasets": plan.datasets,
        "config": plan.config,
        "stale": plan.stale(),
        "command": plan.command,
        "finished": results["started"].drop_nulls().max(),
        "fmt": fmt,
    }


def _view(
    key: str,
    section: Section,
    plan: SweepPlan,
    dataset: DatasetInfo,
    styles: dict[str, dict[str, str]],
    kept: dict[str, dict[str, Any]],
    times: TimesByCell,
) -> _SectionView:
    limits = plan.config.train_limits(section.full_bytes)
    further = (encoded_table(section), attention_table(section, kept["attention"]), timing_table(section, times))
    return _SectionView(
        key=key,
        section=section,
        dataset=dataset,
        recommendation=recommendation(section),
        answer=answer(section, dataset.best_auc),
        tables=section_tables(section, limits, RowIntervals(plan.store))
        | {table.key: table for table in further if table.rows},
        runs=every_run(section),
        main_charts=_main_charts(section, styles, dataset.best_auc),
        expected=expected_chart(section, styles),
        timing=auc_against_time(section, styles, times),
        slices=slice_charts(section, styles),
        learned=learned_charts(section, kept["learned"], styles),
        attention=attention_charts(section, kept["attention"]),
    )


def _main_charts(section: Section, styles: dict[str, dict[str, str]], best_auc: float | None) -> list[MainChart]:
    """One chart of all; two where some methods are small to train, and others only to serve."""
    if not section.cells:
        return []
    serve, train = section.methods_of(True), section.methods_of(False)
    if not serve or not train:
        drawn = auc_against_bytes(section, styles, best_auc)
        return [MainChart("auc", "AUC against bytes", section.methods, drawn), *_ranking_chart(section, styles)]
    full = [section.full.method] if section.full else []
    kinds = (
        ("auc-serve", "Small to serve: trained as a full table, made small afterwards", full + serve),
        ("auc", "Small to train, and to serve", full + train),
    )
    charts = [
        MainChart(key, title, methods, auc_against_bytes(section, styles, best_auc, methods))
        for key, title, methods in kinds
    ]
    return charts + _ranking_chart(section, styles)


def _ranking_chart(section: Section, styles: dict[str, dict[str, str]]) -> list[MainChart]:
    """NDCG against bytes, where items are ranked."""
    if any(cell.estimate("ndcg") is None for cell in section.cells):
        return []
    return [MainChart("ndcg", "NDCG against bytes", section.methods, ndcg_against_bytes(section, styles))]


def _kept(plan: SweepPlan, results: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """What finished runs kept for charts, each by hash: what tables learned, what attention looks at."""
    finished = results.filter(pl.col("status") == "ok")["hash"]
    records = [(key, plan.store.read_run(key)) for key in finished]
    kept = {key: record["result"] for key, record in records if record is not None}
    return {what: {key: result.get(what) or {} for key, result in kept.items()} for what in ("learned", "attention")}


def _failures(results: pl.DataFrame) -> list[dict[str, Any]]:
    """Failed and infeasible runs, those with the same reason together."""
    keys = ["dataset", "model", "method", "budget", "status", "error", "smallest_feasible_bytes"]
    bad = results.filter(pl.col("status") != "ok")
    return bad.group_by(keys, maintain_order=True).agg(pl.col("seed"), pl.col("hash")).to_dicts()


def _tuning(plan: SweepPlan) -> list[dict[str, Any]]:
    """What was chosen for each cell, and the validation AUC of every trial."""
    if plan.config.tuning is None:
        return []
    chosen, candidates = plan.chosen(), plan.config.tuning.trials()
    rows = []
    for cell, specs in plan.trials().items():
        scores = [validation_auc(plan.store.read_run(spec.hash)) for spec in specs]
        tried = [f"{_settings(s)}: {fmt.number(score)}" for s, score in zip(candidates, scores, strict=True)]
        picked = _settings(chosen[cell]) if cell in chosen else "no trial succeeded: the sweep's own settings"
        rows.append({"cell": cell, "chosen": picked, "tried": tried})
    return rows


def _training(plan: SweepPlan) -> list[dict[str, str]]:
    """Training and model settings by data set and model, as the file gives them."""
    rows = []
    for entry, info in zip(plan.config.datasets, plan.datasets, strict=True):
        dim = entry.embedding_dim or plan.config.embedding_dim
        for model in plan.config.models:
            settings = {**plan.config.training, **entry.training, **model.training}
            options = _settings(model.options) or "defaults"
            tower = model_config(model.model, model.history, model.options).history_config
            if weights := getattr(tower, "weights", None):
                options += f"; attention weights: {weights}"
            rows.append({"dataset": info.name, "model": model.label, "options": options}
                        | {"training": _settings(settings) or "defaults", "embedding_dim": str(dim)})  # fmt: skip
    return rows


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())


def _circumstances(results: pl.DataFrame) -> list[tuple[str, str]]:
    """What the runs ran on; a value that is not the same for all is listed with each of its values."""

    def distinct(column: str) -> str:
        values = results[column].drop_nulls().unique(maintain_order=True).to_list()
        return ", ".join(str(value) for value in values) or fmt.MISSING

    versions = dict.fromkeys(results["versions"].to_list())
    told = " / ".join(", ".join(f"{k} {v}" for k, v in json.loads(text).items()) for text in versions)
    rows = [("versions", told), ("commit of rectab", distinct("commit")), ("device", distinct("device"))]
    rows += [(name, distinct(name)) for name in ("threads", "precision", "gradient", "kernel")]
    return rows

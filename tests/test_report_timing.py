"""Times of tables beside a sweep's AUC: joined by table and budget, refused where they are not times."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from sweep_fakes import CONFIG, finished_sweep

from rectab.sweep.report import write_report
from rectab.sweep.timing import read_times

STEPS = {("full", None): 5.5, ("hashed", "10%"): 4.4, ("unified", "10%"): 10.1, ("dnis", "10%"): 14.5}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """What pytest-benchmark writes of ``bench/test_bench_tables.py``, beside another benchmark."""
    workload = {"num_rows": 1000, "num_features": 2, "row_dim": 8, "batch_size": 64, "threads": 2, "kernel": "numba"}
    entries = [{"name": "test_lookup[8]", "stats": {"median": 1.0}, "extra_info": {}}]
    for (method, budget), step in STEPS.items():
        info = {**workload, "gradient": "row", "method": method, "budget": budget}
        for test, time in (("test_table_lookup", step / 10), ("test_table_step", step)):
            entries.append({"name": f"{test}[{method}]", "stats": {"median": time / 1e3}, "extra_info": info})
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"benchmarks": entries}))
    return path


def test_quality_bytes_and_time_stand_in_one_figure(tmp_path: Path, bench: Path) -> None:
    plan = finished_sweep(tmp_path, CONFIG)
    write_report(plan.store.folder, timing=bench)
    page = (plan.store.folder / "report.html").read_text()
    start = page.index('id="charts">') + len('id="charts">')
    traces = json.loads(page[start : page.index("</script>", start)])["s0-timing"]["data"]
    results = pl.read_parquet(plan.store.folder / "results.parquet")
    drawn = {trace["name"]: trace for trace in traces}
    assert set(drawn) == {"full", "hashed", "unified"}, "no other budget was timed, and dnis is not in the sweep"
    for (method, budget), step in list(STEPS.items())[:3]:
        of_cell = results.filter((pl.col("table") == method) & pl.col("budget").eq_missing(budget))
        assert drawn[method]["x"] == [pytest.approx(step)]
        assert drawn[method]["y"] == [pytest.approx(of_cell["auc"].mean())]
    areas = {name: trace["marker"]["size"] ** 2 for name, trace in drawn.items()}
    ratio = results.filter((pl.col("table") == "hashed") & (pl.col("budget") == "10%"))["ratio"].mean()
    assert areas["hashed"] / areas["full"] == pytest.approx(ratio, rel=0.01)
    assert "Quality, bytes and time" in (plan.store.folder / "report.md").read_text()
    write_report(plan.store.folder)
    assert "s0-timing" not in (plan.store.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not a result of pytest-benchmark"),
        ("[]", "not a result of pytest-benchmark"),
        ('{"benchmarks": []}', "no times of tables"),
    ],
)
def test_what_is_no_timing_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "times.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_times(path)

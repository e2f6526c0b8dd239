"""Streams: no period is learned before it is measured; stopped runs go on; ids that stay keep their rows and state."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rectab.cli import app
from rectab.metrics import auc
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.stream.arms import make_arm
from rectab.stream.config import StreamConfig, StreamConfigError, expand, load_stream
from rectab.stream.report import cells_of
from rectab.stream.run import run_stream
from rectab.stream.runs import Runs
from rectab.stream.slices import Seen
from rectab.stream.source import source_of, universe_of
from rectab.stream.synthetic import SyntheticStream
from rectab.stream.vocabularies import fit_most_seen
from rectab.tables import TableOptions, plan
from rectab.tables.dynamic import DynamicTable
from rectab.tables.remapping import carry_state, remap

SMALL = {
    "synthetic": {"periods": 4, "rows": 600, "items": 60, "users": 40, "advertisers": 20, "categories": 5},
    "arms": [
        {"ids": "growing"},
        {"ids": "refitted"},
        {"ids": "fixed"},
        {"method": "unified"},
        {"method": "dynamic", "options": {"evict": "lru"}},
    ],
    "budgets": ["30%"],
    "seeds": [0],
    "embedding_dim": 4,
    "slice_by": ["user", "item"],
    "model": {"model": "mlp", "options": {"hidden": [8], "batch_norm": False}},
    "training": {"batch_size": 100, "lr": 0.01},
}


def config_of(**changes: object) -> StreamConfig:
    return StreamConfig.model_validate({**SMALL, **changes})


def test_the_stream_is_what_it_says() -> None:
    stream = SyntheticStream(periods=12, rows=20_000, seed=3)
    periods = [stream.period(number) for number in range(12)]
    again = stream.period(7)
    assert np.array_equal(again.ids, periods[7].ids)
    assert np.array_equal(again.labels, periods[7].labels)
    assert not np.array_equal(stream.seeded(1).period(7).ids, again.ids)
    times = np.concatenate([p.times for p in periods])
    assert (np.diff(times) >= 0).all()
    for period in periods:
        assert period.probability is not None
        assert abs(period.labels.mean() - period.probability.mean()) < 4 * 0.5 / math.sqrt(20_000)
        assert period.best_auc == pytest.approx(auc(period.labels, period.probability))
    users = [set(p.ids[:, 0].tolist()) for p in periods]
    early = users[0] - set().union(*users[4:6])  # gone within the stay
    back = early & set().union(*users[7:12])
    assert 0.1 < len(back) / len(early) < 0.35, "of those who left, 30 % return some time"


def test_young_items_have_the_asked_share() -> None:
    stream = SyntheticStream()
    decay = math.log(2) / stream.half_life
    ages = np.linspace(0, 60, 600_001)
    shown = (1 - np.exp(-ages / stream.rise)) * np.exp(-decay * ages)
    assert shown[ages < 1].sum() / shown.sum() == pytest.approx(0.2, abs=1e-3)
    with pytest.raises(ValueError, match="young must be in"):
        SyntheticStream(young=0.9)


@pytest.mark.parametrize("number", range(5))
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    spec = expand(config)[number]
    source = source_of(config, 0)
    universe = universe_of(source)
    whole = run_stream(spec, config, source, universe, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def period(self: SyntheticStream, wanted: int, inner=SyntheticStream.period):  # type: ignore[no-untyped-def]
        if wanted == 3:
            raise Stopped
        return inner(self, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(SyntheticStream, "period", period)
        with pytest.raises(Stopped):
            run_stream(spec, config, source, universe, tmp_path / "part")
    resumed = run_stream(spec, config, source, universe, tmp_path / "part")

    def untimed(result: dict) -> str:
        return json.dumps([{k: v for k, v in p.items() if "seconds" not in k} for p in result["periods"]])

    assert untimed(whole) == untimed(resumed)


@pytest.mark.parametrize("changes", [{"passes": 3}, {"retrain": 2}, {"passes": 2, "retrain": 2}], ids=str)
def test_the_clock_of_a_dynamic_table_goes_on_through_every_pass(
    changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(**changes)
    source, told, inner = source_of(config, 0), [], DynamicTable.set_clock

    def set_clock(self: DynamicTable, now: int) -> None:
        told.append(now)
        inner(self, now)

    monkeypatch.setattr(DynamicTable, "set_clock", set_clock)
    run_stream(expand(config)[4], config, source, universe_of(source), tmp_path)
    rest = told[: 6 * changes.get("passes", 1)]
    assert rest == sorted(rest)
    assert 0 < rest[0] < rest[-1] < 1000, "the first period, in thousandths"
    assert len(set(rest)) == len(rest)


def test_nothing_of_a_period_is_learned_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    source = source_of(config, 0)
    universe = universe_of(source)
    results = []
    for flipped in (False, True):
        if flipped:
            inner = SyntheticStream.period

            def period(self: SyntheticStream, number: int, inner=inner):  # type: ignore[no-untyped-def]
                made = inner(self, number)
                return replace(made, labels=1 - made.labels) if number == 3 else made

            monkeypatch.setattr(SyntheticStream, "period", period)
        for spec in expand(config):
            results.append(run_stream(spec, config, source, universe, tmp_path / f"{flipped}{spec.describe()}"))
    for plain, turned in zip(results[:5], results[5:], strict=True):
        assert turned["periods"][:-1] != []
        assert plain["periods"][1]["auc"] == turned["periods"][1]["auc"]
        assert plain["periods"][2]["auc"] == pytest.approx(1 - turned["periods"][2]["auc"])


@pytest.mark.parametrize("number", range(1, 5))
def test_arms_keep_the_budget_with_their_maps(number: int) -> None:
    config = config_of()
    spec = expand(config)[number]
    source = source_of(config, 0)
    universe = universe_of(source)
    arm = make_arm(spec, config, source, universe)
    arm.before_period(source.period(0).ids, Seen.nothing(universe), None)
    full = plan("full", [Vocabulary(str(i), n + 1) for i, n in enumerate(universe.sizes)], 4).serving.bytes
    assert 0.2 * full < arm.bytes <= 0.3 * full
    assert (arm.map_bytes > 0) == (spec.arm.ids != "open")


def test_the_ids_seen_most_get_the_rows() -> None:
    config = config_of()
    source = source_of(config, 0)
    universe = universe_of(source)
    seen = Seen.nothing(universe)
    period = source.period(0)
    seen.add(period.ids, 0)
    fitted, *_ = fit_most_seen(source, universe, seen.counts, 4, 3000, TableOptions())
    users = seen.counts[0]
    kept = np.isin(universe.ids[0], fitted.values[0])
    assert 0 < kept.sum() < (users > 0).sum()
    assert users[kept].min() >= users[~kept].max()
    ids = fitted.ids(period.ids)
    assert ((ids[:, 0] > 0) == np.isin(period.ids[:, 0], fitted.values[0])).all()
    assert (fitted.values[0][ids[:, 0]][ids[:, 0] > 0] == period.ids[:, 0][ids[:, 0] > 0]).all()
    with pytest.raises(ValueError, match="does not hold the closed features"):
        fit_most_seen(source, universe, seen.counts, 4, 100, TableOptions())


def test_slices_say_what_was_seen() -> None:
    source = source_of(config_of(), 0)
    universe = universe_of(source)
    seen = Seen.nothing(universe)
    names = universe.ids[0]
    raw = np.zeros((6, 5), np.int64)
    raw[:] = [ids[0] for ids in universe.ids]
    raw[:, 0] = [names[0]] * 3 + [names[1]] * 2 + [names[2]]
    seen.add(raw[:3], 0)
    seen.add(raw[3:5], 4)
    slices = seen.slices(raw, 0, trained=4, often=3, away=3)
    assert slices["returning"].tolist() == [True] * 3 + [False] * 3
    assert slices["new"].tolist() == [False] * 3 + [True] * 2 + [False]
    assert slices["never"].tolist() == [False] * 5 + [True]
    assert not slices["often"].any()


def test_remapped_ids_keep_rows_and_state() -> None:
    table = plan("full", [Vocabulary("a", 5), Vocabulary("b", 4)], 4).build()
    rows = RowAdam(table.row_stores(), lr=0.1)
    table(torch.tensor([[0, 0], [1, 3], [4, 2]]), torch.arange(2)).square().sum().backward()
    rows.step()
    old = [np.array([-1, 10, 20, 30, 40]), np.array([-1, 7, 8, 9])]
    new = [np.array([-1, 40, 50, 10]), np.array([-1, 9, 7, 6, 5])]
    made, kept = remap(table, old, new)
    other = RowAdam(made.row_stores(), lr=0.1)
    carry_state(rows, other, kept)
    assert [v.num_embeddings for v in made.vocabularies] == [4, 5]
    for vocabulary, pairs in ((0, [(0, 0), (4, 1), (1, 3)]), (1, [(0, 0), (3, 1), (1, 2)])):
        before, after = (torch.tensor(column) for column in zip(*pairs, strict=True))
        assert torch.equal(table(before, vocabulary), made(after, vocabulary))
        first = [int(t.first_row[vocabulary]) for t in (table, made)]
        for key in ("moment", "square", "steps"):
            assert torch.equal(
                rows.rows["store"].state[key][before + first[0]], other.rows["store"].state[key][after + first[1]]
            )
    assert other.rows["store"].state["steps"].sum() == rows.rows["store"].state["steps"].sum() - 1
    assert other.clock.now == 1
    with pytest.raises(ValueError, match="hashed: only a table in which every id"):
        remap(plan("hashed", [Vocabulary("a", 500)], 4, "10%").build(), [np.arange(500)], [np.arange(3)])
    with pytest.raises(ValueError, match="values must be distinct"):
        remap(table, old, [np.array([-1, 1, 1]), new[1]])


def test_the_command_reports_and_keeps_what_is_finished(tmp_path: Path) -> None:
    synthetic = ", ".join(f"{k} = {v}" for k, v in SMALL["synthetic"].items())  # type: ignore[attr-defined]
    text = f"""
budgets = ["30%"]
seeds = [0, 1]
embedding_dim = 4
slice_by = ["item"]
synthetic = {{ {synthetic} }}
arms = [{{ ids = "growing" }}, {{ method = "dynamic" }}, {{ method = "hashed" }}]
model = {{ model = "mlp", options = {{ hidden = [8], batch_norm = false }} }}
training = {{ batch_size = 100, lr = 0.01 }}
"""
    (tmp_path / "s.toml").write_text(text)
    arguments = ["stream", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("AUC") == 6
    again = CliRunner().invoke(app, arguments)
    assert again.output.count("AUC") == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "dynamic at 30%" in report
    assert "item:new" in report
    assert "at 30%, same seeds:" in report
    assert "plotly" in (tmp_path / "out" / "report.html").read_text()
    cells = cells_of(Runs(tmp_path / "out", load_stream(tmp_path / "s.toml")))
    assert [(cell.name, len(cell.records)) for cell in cells] == [
        ("growing", 2),
        ("dynamic at 30%", 2),
        ("hashed at 30%", 2),
    ]
    worse, better = sorted(cells[1:], key=lambda cell: cell.of(lambda period: period["auc"]).mean)  # type: ignore[union-attr]
    assert f"Minus {better.name}, same seeds" in report
    lost = worse.against(better, lambda period: period["auc"])
    assert lost is not None
    assert f"\N{MINUS SIGN}{-lost.mean:.4f} ±" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [{"method": "qr"}]}, "qr cannot take any id"),
        ({"arms": [{"ids": "fixed", "method": "hashed"}]}, "is of the full table"),
        ({"arms": [{"method": "dynamic"}, {"method": "dynamic"}]}, "repeated dynamic"),
        ({"arms": [{"method": "dynamic", "options": {"evicts": "lru"}}]}, "unknown option 'evicts'"),
        ({"synthetic": {"period": 3}}, "did you mean 'periods'"),
        ({"prepared": {"path": "x"}}, "give one of"),
        ({"training": {"lr": -1}}, "lr must be above 0"),
    ],
)
def test_a_wrong_file_is_refused_by_key(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**changes)
    (tmp_path / "s.toml").write_text("title = 3")
    with pytest.raises(StreamConfigError, match=r"s\.toml: .*title"):
        load_stream(tmp_path / "s.toml")

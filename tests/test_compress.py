"""Finished runs compressed to budgets: what is written and measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture
from training_helpers import tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.quantize.encodings import Codebook
from rectab.sweep.curve_page import curve_figure, write_curve_page
from rectab.tables import InfeasibleBudget, load_table
from rectab.tables.quantized import QuantizedTable
from rectab.training import TrainConfig, train_once
from rectab.training.artifact import TABLE_FILE
from rectab.training.compress.curve import compress

CONFIG: dict[str, Any] = {"batch_size": 300, "max_epochs": 2, "lr": 0.01, "precision": "fp32"}


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(900)


def train(dataset: PreparedDataset, folder: Path, dim: int, **options: Any) -> Path:
    settings = CONFIG | {"seed": options.pop("seed", 0), "max_epochs": options.pop("epochs", CONFIG["max_epochs"])}
    train_once(
        dataset,
        **{"method": "full", "model": "fm", "embedding_dim": dim, "read_test": False, "progress": "off"} | options,
        train_config=TrainConfig(**settings),
        out_dir=folder,
    )
    return folder


@pytest.fixture(scope="module")
def runs(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Finished runs of width 6 and 3; no test changes them."""
    folder = tmp_path_factory.mktemp("runs")
    return [train(dataset, folder / f"dim{dim}", dim) for dim in (6, 3)]


def test_every_budget_is_kept_measured_and_told(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for run in runs for path in run.iterdir()}
    curve = compress(dataset, runs[:1], tmp_path / "out", ["30%", "700B"])
    assert [point.budget for point in curve.points] == ["30%", "700B"]
    assert [point.budget_bytes for point in curve.points] == [int(0.3 * curve.full_bytes), 700]
    assert all(0.9 * p.budget_bytes < p.serving_bytes <= p.budget_bytes for p in curve.points)
    source = curve.sources[0]
    assert source.valid["auc"] == pytest.approx(json.loads((runs[0] / "result.json").read_text())["valid"]["auc"])
    for point in curve.points:
        assert point.lost == pytest.approx(source.valid["auc"] - point.valid["auc"])
        assert {"auc", "logloss", "calibration"} <= point.valid.keys() & point.expected.keys()
        assert point.test is None
    assert json.loads((tmp_path / "out" / "curve.json").read_text()) == json.loads(json.dumps(curve.to_json()))
    assert before == {path: path.read_bytes() for run in runs for path in run.iterdir()}


def test_validation_chooses_the_width(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    curve = compress(dataset, runs, tmp_path / "out", ["40%", "5%"])
    for point in curve.points:
        reached = {attempt.embedding_dim: attempt.valid["auc"] for attempt in point.attempts if attempt.valid}
        assert reached.keys() == {6, 3}
        assert point.valid["auc"] == max(reached.values()) == reached[point.embedding_dim]
        assert point.share <= point.budget_bytes / curve.full_bytes


def test_the_picture_shows_what_was_measured(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    curve = compress(dataset, runs, tmp_path / "out", ["10%", "40%"])
    measured, predicted, *by_width = curve_figure(curve)["data"]
    points = sorted(curve.points, key=lambda point: point.serving_bytes)
    assert measured["x"] == [point.serving_bytes for point in points]
    assert measured["y"] == [point.valid["auc"] for point in points]
    assert predicted["y"] == [point.expected["auc"] for point in points]
    assert [len(trace["x"]) for trace in by_width] == [2, 2]
    page = write_curve_page(curve, tmp_path / "out").read_text()
    for point in points:
        assert f"<td>{point.valid['auc']:.5f}</td>" in page


def test_a_loss_finds_bytes_that_keep_to_it(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    curve = compress(dataset, runs[:1], tmp_path / "out", loss=0.01)
    (point,) = curve.points
    assert point.lost <= 0.01
    assert curve.measured[point.budget_bytes] == point.valid["auc"]
    assert point.budget_bytes == min(size for size, auc in curve.measured.items() if auc >= point.valid["auc"])


def test_test_is_read_when_asked_for_only(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    curve = compress(dataset, runs[:1], tmp_path / "out", ["50%"], read_test=True)
    assert curve.points[0].test is not None
    assert curve.sources[0].test is not None
    assert abs(curve.sources[0].test["auc"] - curve.points[0].test["auc"]) < 0.05


@pytest.mark.parametrize(
    ("budgets", "loss", "message"),
    [
        ([], None, "nothing to do: give at least one --budget"),
        (["10%", "10 %"], None, "--budget 10 %: given twice"),
        (["10"], None, "write 10% for a share of the full table"),
        (["zzz"], None, "budget 'zzz' is not understood"),
        (["20B"], None, r"20 bytes is infeasible; the smallest feasible is \d\d+ "),
        ([], 1.5, "--loss is a difference in validation AUC"),
    ],
)
def test_bad_budgets_are_refused_before_anything_is_done(
    dataset: PreparedDataset, runs: list[Path], tmp_path: Path, budgets: list[str], loss: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compress(dataset, runs[:1], tmp_path / "out", budgets, loss)
    assert not (tmp_path / "out").exists()


def test_the_smallest_table_that_an_error_names_is_made(
    dataset: PreparedDataset, runs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        compress(dataset, runs, tmp_path / "out", ["1B"])
    smallest = caught.value.smallest_bytes
    assert smallest is not None
    with pytest.raises(InfeasibleBudget):
        compress(dataset, runs, tmp_path / "out", [f"{smallest - 1}B"])
    curve = compress(dataset, runs, tmp_path / "out", [f"{smallest}B"])
    assert curve.points[0].serving_bytes == smallest
    assert curve.points[0].embedding_dim == 3


def test_runs_that_do_not_go_together_are_refused(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    def refused(folders: list[Path], message: str, data: PreparedDataset = dataset) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            compress(data, folders, tmp_path / "out", ["10%"])
        assert not (tmp_path / "out").exists()

    refused([runs[0], runs[0]], f"{runs[0]}: of width 6, as {runs[0]} is")
    refused([runs[0], train(dataset, tmp_path / "seed1", 3, seed=1)], "of seed 1, and .* is of seed 0")
    refused([train(dataset, tmp_path / "hashed", 6, method="hashed", budget="50%")], "its table is 'hashed'")
    refused([tmp_path / "nothing"], "no result.json, so this is no finished run")
    refused(runs[:1], "trained on tiny", tiny_dataset(900, seed=1))


def test_a_folder_that_holds_something_is_left_alone(
    dataset: PreparedDataset, runs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(FileExistsError, match=r"exists already; give another --out"):
        compress(dataset, runs[:1], tmp_path, ["10%"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("shape", "budget"), [("int8", "60%"), ("threshold", "25%")])
def test_rivals_are_made_to_the_same_budgets(
    dataset: PreparedDataset, runs: list[Path], tmp_path: Path, shape: Any, budget: str
) -> None:
    best = compress(dataset, runs[:1], tmp_path / "best", [budget]).points[0]
    curve = compress(dataset, runs[:1], tmp_path / "rival", [budget], shape=shape)
    made = curve.points[0]
    assert made.serving_bytes <= made.budget_bytes == best.budget_bytes
    assert curve.to_json()["shape"] == shape
    assert made.expected["auc"] <= best.expected["auc"] + 1e-3
    with pytest.raises(InfeasibleBudget, match="smallest feasible"):
        compress(dataset, runs[:1], tmp_path / "none", ["50B"], shape=shape)


@pytest.mark.parametrize("count_ids", [False, True])
def test_no_rival_is_better_on_validation(
    dataset: PreparedDataset, runs: list[Path], tmp_path: Path, count_ids: bool
) -> None:
    budgets = ["60%", "45%", "30%"] if not count_ids else ["120%", "90%"]
    best = compress(dataset, runs[:1], tmp_path / "best", budgets, count_ids=count_ids)
    for shape, possible in (("int8", budgets[:1]), ("threshold", budgets)):
        rival = compress(dataset, runs[:1], tmp_path / shape, possible, count_ids=count_ids, shape=shape)  # type: ignore[arg-type]
        for point, other in zip(best.points, rival.points, strict=False):
            assert point.valid["auc"] >= other.valid["auc"]
            assert point.serving_bytes <= point.budget_bytes


def test_kept_blocks_and_codebooks_make_a_small_delta(
    rectab: CommandLine,  # noqa: F811
    dataset: PreparedDataset,
    runs: list[Path],
    tmp_path: Path,
) -> None:
    compress(dataset, runs[:1], tmp_path / "old", ["20%"])
    later = train(dataset, tmp_path / "later", 6, epochs=3)  # an epoch more than the run
    kept = compress(dataset, [later], tmp_path / "kept", keep=[tmp_path / "old" / "20%"])
    compress(dataset, [later], tmp_path / "anew", ["20%"])
    old, new, anew = (load_table(tmp_path / of / "20%" / TABLE_FILE) for of in ("old", "kept", "anew"))
    assert isinstance(old, QuantizedTable)
    assert isinstance(new, QuantizedTable)
    assert new.config == old.config
    for part, before, after in zip(old.parts, old.payloads(), new.payloads(), strict=True):
        if isinstance(part.encoding, Codebook):
            book = part.encoding.bytes(0, 6)
            assert (before[:book] == after[:book]).all()
    (point,) = kept.points
    assert point.serving_bytes == point.budget_bytes == old.ledger().bytes
    assert point.budget == "20%"

    told = rectab.json("delta", tmp_path / "old" / "20%", tmp_path / "kept" / "20%", "--out", tmp_path / "delta")
    parts = {part["name"]: part for part in told["parts"]}
    assert parts["blocks"]["changed"] == 0
    assert 0 < parts["codes"]["changed"] <= parts["codes"]["bytes"]
    assert parts["dense part"]["alike"]
    rectab("apply-delta", tmp_path / "delta", tmp_path / "old" / "20%", "--out", tmp_path / "made")
    for path in (tmp_path / "kept" / "20%").iterdir():
        assert path.read_bytes() == (tmp_path / "made" / path.name).read_bytes()
    other = rectab("delta", tmp_path / "old" / "20%", tmp_path / "anew" / "20%")[0]
    assert "payload of other blocks" in other or anew.config == old.config


def test_what_cannot_be_kept_is_refused_by_name(dataset: PreparedDataset, runs: list[Path], tmp_path: Path) -> None:
    compress(dataset, runs[:1], tmp_path / "old", ["20%"])
    kept = tmp_path / "old" / "20%"
    with pytest.raises(ValueError, match=r"is of width 6, .*dim3 of 3"):
        compress(dataset, runs[1:], tmp_path / "out", keep=[kept])
    with pytest.raises(ValueError, match="give one run"):
        compress(dataset, runs, tmp_path / "out", keep=[kept])
    with pytest.raises(FileNotFoundError, match="holds no encoded run"):
        compress(dataset, runs[:1], tmp_path / "out", keep=[runs[0]])
    with pytest.raises(ValueError, match="there is a 20% already"):
        compress(dataset, runs[:1], tmp_path / "out", ["20%"], keep=[kept])
    other = tiny_dataset(500)
    smaller = train(other, tmp_path / "smaller", 6)
    if other.schema.vocabularies[0].num_embeddings != dataset.schema.vocabularies[0].num_embeddings:
        with pytest.raises(ValueError, match=r"has \d+ ids there, \d+ in .*smaller"):
            compress(other, [smaller], tmp_path / "out", keep=[kept])
    assert not (tmp_path / "out").exists()

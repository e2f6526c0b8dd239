"""A finished run scores raw rows: what train measured, from the command line and in Python."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_helpers import HEADER, prepared, raw_lines, recipe, write_lines
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture

import rectab as package
from rectab.data import DataError, PreparedDataset, prepare
from rectab.training.inputs_file import INPUTS_FILE
from rectab.training.served import ServedModel, load

LOG = {
    "behaviour": "clicked",
    "where": "click = 1",
    "sequences": [{"name": "seen", "column": "item", "target": "item"}],
}
TRAIN = ["--model", "lr", "--dim", "4", "--set", "train.max_epochs=2", "--set", "train.batch_size=64"]
METHODS = {
    "full": ["--table", "full"],
    "unified": ["--table", "unified", "--budget", "60%", "--history", "mean"],
    "quantized": ["--table", "quantized", "--budget", "50%"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw rows and the data set prepared of them."""
    folder = tmp_path_factory.mktemp("predict")
    rows = raw_lines(600)
    made = recipe(histories=[LOG], split={"by": "row_order", "valid": 100, "test": 100})
    (folder / "raw").mkdir()
    write_lines(folder / "raw" / "rows.csv", rows)
    write_lines(folder / "test.csv", rows[-100:])
    prepare(made, folder / "raw", folder / "data")
    return folder


def trained(rectab: CommandLine, folder: Path, method: str) -> Any:  # noqa: F811
    """The result of a run in ``folder / method``, which is trained once."""
    return rectab.json("train", folder / "data", *TRAIN, *METHODS[method], "--out", folder / method)


@pytest.mark.parametrize("method", METHODS)
def test_evaluate_measures_what_train_measured(rectab: CommandLine, folder: Path, method: str) -> None:  # noqa: F811
    result = trained(rectab, folder, method)
    run, raw = folder / method, folder / "raw"
    for asked in (["--raw", raw, "--split", "test"], ["--split", "test"], ["--rows", folder / "test.csv"]):
        found = rectab.json("evaluate", run, *asked)
        assert next(iter(found)) == "auc"
        assert {name: found[name] for name in result["test"]} == result["test"]
        assert (found["slices"], found["rows"]) == (result["slices"], 100)
    out, _ = rectab("evaluate", run, "--raw", raw / "rows.csv", "--split", "test")
    assert f"{result['test']['auc']:.5f}" in out


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_that_are_measured(rectab: CommandLine, folder: Path, method: str) -> None:  # noqa: F811
    from rectab.metrics import auc

    result, out = trained(rectab, folder, method), folder / f"{method}.parquet"
    rectab("predict", folder / method, "--rows", folder / "test.csv", "--out", out)
    scores = pl.read_parquet(out)
    assert scores.columns == ["file", "row", "probability"]
    assert scores["row"].to_list() == list(range(2, 102))
    labels = np.array([float(row[0]) for row in raw_lines(600)[-100:]])
    assert auc(labels, scores["probability"].to_numpy()) == pytest.approx(result["test"]["auc"], abs=1e-12)
    frame = pl.DataFrame(raw_lines(600)[-100:], schema=HEADER, orient="row").drop("click")
    model = package.load(folder / method)
    np.testing.assert_array_equal(model.predict(frame), scores["probability"].to_numpy())
    np.testing.assert_allclose(model.predict(frame[7:8]), scores["probability"][7], rtol=1e-6)
    printed, _ = rectab("predict", folder / method, "--rows", folder / "test.csv")
    assert printed.splitlines()[0] == "file,row,probability"
    assert len(printed.splitlines()) == 101


def test_threads_score_alike(rectab: CommandLine, folder: Path) -> None:  # noqa: F811
    trained(rectab, folder, "unified")
    model = load(folder / "unified")
    frame = pl.DataFrame(raw_lines(600)[-100:], schema=HEADER, orient="row")
    alone = model.predict(frame)
    found: list[np.ndarray] = []

    def score(first: int) -> None:
        found.append(np.concatenate([model.predict(frame[a : a + 17]) for a in range(first, 100, 17)]))

    threads = [threading.Thread(target=score, args=(first,)) for first in (0, 0, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for scores in found:
        np.testing.assert_allclose(scores, alone, rtol=1e-6)


def test_a_run_of_before(rectab: CommandLine, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """It lacks what makes its inputs: the data set stands in, and the train command mends it."""
    result = trained(rectab, folder, "full")
    (folder / "full" / INPUTS_FILE).unlink()
    asked = ["evaluate", folder / "full", "--rows", folder / "test.csv"]
    _, err = rectab(*asked, code=1)
    assert f"{INPUTS_FILE}: no such file; a run of an earlier rectab has none: give --data" in err
    assert rectab.json(*asked, "--data", folder / "data")["auc"] == result["test"]["auc"]
    other = prepared(tmp_path)
    _, err = rectab(*asked, "--data", other.path, code=1)
    assert "give the data set that the run was trained on" in err
    trained(rectab, folder, "full")
    assert rectab.json(*asked)["auc"] == result["test"]["auc"]


def test_damaged_inputs_are_refused(rectab: CommandLine, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    import shutil

    trained(rectab, folder, "full")
    for file in (INPUTS_FILE, "ids.safetensors"):
        run = tmp_path / file
        shutil.copytree(folder / "full", run)
        spoilt = bytearray((run / file).read_bytes())
        spoilt[-1] ^= 1
        (run / file).write_bytes(spoilt)
        with pytest.raises(ValueError, match=f"{file}: .*damaged"):
            load(run)


def test_what_is_no_run_and_no_file(rectab: CommandLine, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    trained(rectab, folder, "full")
    assert "no finished run" in rectab("predict", tmp_path, "--split", "test", code=1)[1]
    _, err = rectab("predict", folder / "full", "--split", "test", "--out", tmp_path / "x.txt", code=1)
    assert "the name must end in .parquet or .csv" in err
    _, err = rectab("evaluate", folder / "full", "--raw", tmp_path, "--split", "test", code=1)
    assert err.startswith(f"rectab: {tmp_path / 'rows.csv'}: no such file")


def test_bad_rows_may_be_left_out(rectab: CommandLine, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    trained(rectab, folder, "full")
    rows = raw_lines(600)[-100:]
    rows[3][HEADER.index("price")] = "cheap"
    bad = write_lines(tmp_path / "bad.csv", rows)
    _, err = rectab("predict", folder / "full", "--rows", bad, code=1)
    assert f"{bad}, line 5, column 'price': a number is needed" in err
    out, err = rectab("predict", folder / "full", "--rows", bad, "--bad-rows", "skip")
    assert "1 bad row was left out" in err
    assert len(out.splitlines()) == 100


def test_ratings_are_predicted_as_they_are(rectab: CommandLine, tmp_path: Path) -> None:  # noqa: F811
    dataset = prepared(tmp_path, raw_lines(300), label={"column": "age", "rating": True}, features=[{"name": "item"}])
    settings = ["--set", "train.objective=mse", "--set", "train.monitor=-rmse"]
    rectab("train", dataset.path, *TRAIN, *settings, "--out", tmp_path / "run")
    model = package.load(tmp_path / "run")
    assert isinstance(model, ServedModel)
    assert model.predict(pl.DataFrame({"item": ["i1", "i2"]})).shape == (2,)


def test_a_run_without_a_feature(rectab: CommandLine, tmp_path: Path) -> None:  # noqa: F811
    dataset: PreparedDataset = prepared(tmp_path, raw_lines(300), features=[{"name": "item"}, {"name": "user"}])
    result = rectab.json("train", dataset.path, *TRAIN, "--without", "item", "--out", tmp_path / "run")
    found = rectab.json("evaluate", tmp_path / "run", "--split", "test")
    assert found["auc"] == result["test"]["auc"]
    frame = pl.DataFrame({"user": ["u1", "u2"]})
    assert package.load(tmp_path / "run").predict(frame).shape == (2,)
    with pytest.raises(DataError, match="frame: no column 'user'"):
        package.load(tmp_path / "run").predict(pl.DataFrame({"item": ["i1"]}))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == result["test"]

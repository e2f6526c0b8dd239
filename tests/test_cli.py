"""The command line: what it prints, what it asks of the library, and errors that name what to mend."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rectab import cli
from rectab.data import PreparedDataset, Recipe, prepare
from rectab.data.id_map import IdMap
from rectab.models.registry import interactions, towers
from rectab.ops import formats
from rectab.tables import methods
from rectab.tables.registry import GROUPS

SMALL = {"rows": 900, "users": 60, "items": 90, "fields": {"page": 30}, "categories": 6}
TRAIN = ["--model", "lr", "--dim", "4", "--set", "train.max_epochs=1", "--set", "train.batch_size=300"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.model_validate({"name": "small", "synthetic": SMALL})
    return prepare(recipe, None, tmp_path_factory.mktemp("data") / "small").path


class CommandLine:
    """``rectab ARGUMENTS`` in this process: what it wrote, and how it ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.delenv("RECTAB_TRACEBACK", raising=False)

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """(standard output, standard error), of a command that is to end with this exit code."""
        self.monkeypatch.setattr(sys, "argv", ["rectab", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = self.capsys.readouterr()
        assert ended.value.code == code, captured.err
        return captured.out, captured.err

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json")[0])


@pytest.fixture
def rectab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_tables_prints_what_is_true(rectab: CommandLine, data: Path) -> None:
    out, _ = rectab("tables")
    assert "needs budget" not in out
    groups = {entry["name"]: entry["group"] for entry in rectab.json("tables")}
    assert groups == {method.name: method.group for method in methods()}
    assert list(groups.values()) == sorted(groups.values(), key=GROUPS.index)
    assert (groups["full"], groups["dnis"], groups["qr"]) == ("reference", "pruning", "static encoding")
    floors = {entry["name"]: entry for entry in rectab.json("tables", data, "--dim", 4)}
    smallest = rectab.json("plan", data, "--budget", "1B", "--dim", 4)
    for entry in smallest:  # the same numbers as those that a plan refuses with
        if entry["status"] == "infeasible":
            assert floors[entry["method"]]["floor_bytes"] == entry["smallest_bytes"]
    assert floors["full"]["floor_share"] == pytest.approx(1, rel=0.05)
    assert "smallest" in rectab("tables", data)[0]
    listed = {entry["name"]: entry for entry in rectab.json("tables", "--formats")}
    assert list(listed) == [row_format.name for row_format in formats()]
    assert {
        name: entry["row_bytes_at_16"] for name, entry in listed.items() if name in ("fp32", "int4", "ternary")
    } == {
        "fp32": 64,
        "int4": 10,
        "ternary": 6,
    }
    assert listed["int4"]["gradients"] == ["row"]
    assert "dhe" in listed["int4"]["refused_by"]
    assert listed["fp32"]["refused_by"] == {}
    assert "dhe takes no row format, as it holds" in rectab("tables", "--formats")[0]
    planned = rectab.json("plan", data, "--budget", "none")
    assert {entry["status"] for entry in planned} == {"planned"}, "every method plans without a budget"


def test_describe_says_how_rare_ids_are_and_what_their_map_takes(rectab: CommandLine, data: Path) -> None:
    told, dataset = rectab.json("describe", data)["ids"], PreparedDataset.open(data)
    counts = [np.asarray(v.counts)[1:] for v in dataset.schema.vocabularies]
    assert told["ids"] == sum(len(c) + 1 for c in counts)
    assert told["seen_once"] == pytest.approx(np.mean(np.concatenate(counts) == 1))
    assert told["map_bytes"] == IdMap.build(dataset).bytes  # type: ignore[union-attr]
    out, _ = rectab("describe", data)
    assert f"{told['ids']:,} ids in {len(counts)} vocabularies; {told['seen_once']:.1%} of the values seen once" in out
    less = rectab.json("describe", data, "--without", "page")["ids"]
    assert less["vocabularies"] == len(counts) - 1
    assert less["map_bytes"] < told["map_bytes"]


def test_count_ids_is_a_choice_of_plan_and_train(rectab: CommandLine, data: Path) -> None:
    asked = (data, "--table", "unified", "--dim", 4, "--budget", "60%")
    (beside,), (within,) = (rectab.json("plan", *asked, *more) for more in ((), ("--count-ids",)))
    assert beside["map_bytes"] == within["map_bytes"] > 0
    assert within["serving_bytes"] + within["map_bytes"] <= within["budget_bytes"]
    assert beside["serving_bytes"] + beside["map_bytes"] > beside["budget_bytes"]
    result = rectab.json("train", data, *TRAIN, "--table", "unified", "--budget", "60%", "--count-ids")
    assert result["serving_bytes"] == within["serving_bytes"]


def test_plan_tells_a_bound_from_a_count(rectab: CommandLine, data: Path) -> None:
    out, _ = rectab("plan", data, "--budget", "50%", "--dim", 4, "--table", "optembed")
    assert "serving: at most" in out
    out, _ = rectab("plan", data, "--budget", "50%", "--dim", 4, "--table", "hashed")
    assert "at most" not in out
    assert "index" in out


def test_plan_with_an_option_of_some_methods(rectab: CommandLine, data: Path) -> None:
    out, _ = rectab("plan", data, "--budget", "50%", "--dim", 4, "-o", "num_chunks=4")
    assert "infeasible" not in out
    assert "no option 'num_chunks'" in out
    assert "num_chunks=4" in out
    _, err = rectab("plan", data, "--budget", "50%", "-o", "num_chunk=4", code=1)
    assert "no option 'num_chunk' of " in err
    assert "did you mean 'num_chunks'?" in err


def test_train_takes_a_budget_of_none(rectab: CommandLine, data: Path) -> None:
    result = rectab.json("train", data, *TRAIN, "--table", "hashed", "--budget", "none")
    assert result["budget_bytes"] is None
    assert result["test"] is not None


def test_train_leaves_test_alone_and_measures_the_finished_run_later(
    rectab: CommandLine, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = rectab.json("train", data, *TRAIN, "--out", out, "--no-test")
    assert first["test"] is None
    text, said = rectab("train", data, *TRAIN, "--out", out, "--json")
    again = json.loads(text)
    assert f"{out / 'result.json'}: this run has finished and is read back" in said
    assert again["test"] is not None
    assert again["train_seconds"] == first["train_seconds"], "not trained again"
    printed, _ = rectab("train", data, *TRAIN, "--out", out)
    assert f"{again['test']['auc']:.5f}" in printed
    printed, _ = rectab("train", data, *TRAIN, "--out", out, "--no-test")
    assert f"{again['test']['auc']:.5f}" not in printed
    _, err = rectab("train", data, *TRAIN, "--out", out, "--seed", 1, code=1)
    assert "run with other settings (train.seed: 0 there, 1 here)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "zzz"], "no table method 'zzz'. There are: "),
        (["--model", "deepmf"], "no interaction 'deepmf'; did you mean 'deepfm'? There are: lr"),
        (["--budget", "ten"], "budget 'ten' is not understood"),
        (["--table", "hashed", "-o", "chunks=2"], "hashed: unknown option 'chunks'. There are: whole_below, seed"),
        (["-o", "chunks"], "'chunks': write KEY=VALUE"),
        (["--set", "lr=1"], "--set lr: settings start with train. or model."),
    ],
)
def test_train_names_what_is_wrong(rectab: CommandLine, data: Path, arguments: list[str], message: str) -> None:
    _, err = rectab("train", data, *arguments, code=1)
    assert message in err


def test_sweep_names_the_raw_setting(rectab: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTAB_DATA", str(tmp_path / "nothing"))
    sweep = Path(__file__).resolve().parents[1] / "bench" / "sweeps" / "frappe.toml"
    _, err = rectab("sweep", sweep, "--out", tmp_path / "out", code=1)
    assert f"{sweep}: datasets[0].raw: no such folder" in err
    assert "export RECTAB_DATA=" in err


def test_compress_encodes_a_finished_run_and_says_what_it_costs(
    rectab: CommandLine, data: Path, tmp_path: Path
) -> None:
    rectab("train", data, *TRAIN, "--no-test", "--out", tmp_path / "full")
    out, said = rectab("compress", data, tmp_path / "full", "--budget", "30%", "--out", tmp_path / "small")
    curve = json.loads((tmp_path / "small" / "curve.json").read_text())
    (point,) = curve["points"]
    assert f"{point['valid']['auc']:.4f}" in out
    assert f"{point['expected']['logloss']:.4f}" in out
    assert "30%: encoding and validation" in said
    assert (tmp_path / "small" / "curve.html").exists()
    told = rectab.json("compress", data, tmp_path / "full", "--budget", "30%", "--test", "--out", tmp_path / "again")
    assert told["points"][0]["valid"] == point["valid"]
    assert told["points"][0]["test"]["auc"] != point["valid"]["auc"]
    _, err = rectab("compress", data, tmp_path / "small" / "30%", "--budget", "9%", "--out", tmp_path / "x", code=1)
    assert "its table is 'quantized'; only a run of --table full can be compressed" in err
    _, err = rectab("compress", data, tmp_path / "full", "--budget", "30%", "--out", tmp_path / "small", code=1)
    assert "small: exists already; give another --out" in err


def test_a_finished_full_run_is_taken_for_an_encoded_one(rectab: CommandLine, data: Path, tmp_path: Path) -> None:
    full = rectab.json("train", data, *TRAIN, "--no-test", "--out", tmp_path / "mine" / "full")
    quantized = ("--table", "quantized", "--budget", "20%", "--trained", tmp_path / "mine")
    result = rectab.json("train", data, *TRAIN, *quantized, "--out", tmp_path / "q")
    assert result["train_seconds"] == full["train_seconds"]
    assert result["encoded"]["full_valid"]["auc"] == pytest.approx(full["valid"]["auc"], abs=1e-6)
    out, _ = rectab("train", data, *TRAIN, *quantized, "--out", tmp_path / "q")
    assert "encoding" in out


@pytest.mark.parametrize("command", ["train", "choose", "tune"])
def test_help_names_every_interaction_and_history_tower(command: str) -> None:
    told = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "300"}).output
    words = set(re.findall(r"\w+", told))
    assert {entry.name for entry in (*interactions(), *towers())} <= words

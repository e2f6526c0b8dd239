"""A method from outside the package, as docs/add-a-method.md has it: in plan, train, sweeps, reports, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"

RECIPE = """
name = "tiny"
[synthetic]
rows = 400
users = 30
items = 40
fields = { page = 20 }
history_length = 2
"""

SWEEP = """
budgets = ["60%"]
seeds = [0, 1]
datasets = [{ path = "data" }]
models = [{ model = "lr" }]
methods = [{ method = "full" }, { method = "bloom", options = { seed = 3 } }]
training = { max_epochs = 1, evaluations_per_epoch = 1, batch_size = 128 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's module, a prepared data set and a sweep file."""
    folder = tmp_path_factory.mktemp("plugins")
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert block is not None
    (folder / "bloom.py").write_text(block.group(1))
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "sweep.toml").write_text(SWEEP)
    assert rectab(folder, "prepare", "tiny.toml", "--out", "data").returncode == 0
    return folder


def rectab(folder: Path, *arguments: str, plugins: str | None = None) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "rectab", *arguments, plugins=plugins)


def python(folder: Path, *arguments: str, plugins: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1]), "OMP_NUM_THREADS": "1"}
    environment.pop("RECTAB_PLUGINS", None)
    if plugins is not None:
        environment["RECTAB_PLUGINS"] = plugins
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_without_the_plugin_there_is_no_such_method(folder: Path) -> None:
    got = rectab(folder, "plan", "data", "--budget", "60%", "--table", "bloom")
    assert got.returncode != 0
    assert "no table method 'bloom'" in got.stderr
    got = rectab(folder, "plan", "data", "--budget", "60%", "--plugin", "nowhere")
    assert got.returncode != 0
    assert "plugin 'nowhere' cannot be imported: ModuleNotFoundError" in got.stderr
    assert "Traceback" not in got.stderr


def test_it_is_planned_trained_and_loaded(folder: Path) -> None:
    got = rectab(folder, "plan", "data", "--budget", "60%", "--plugin", "bloom", "--json")
    planned = {entry["method"]: entry for entry in json.loads(got.stdout)}["bloom"]
    assert planned["status"] == "planned"
    assert planned["module"] == "bloom"
    assert 0.97 <= planned["budget_share"] <= 1
    train = ("train", "data", "--table", "bloom", "--budget", "60%", "--model", "lr", "--out", "run", "--json")
    got = rectab(folder, *train, "--set", "train.max_epochs=1", "--rows", "int8", "--plugin", "bloom")
    assert json.loads(got.stdout)["table"]["module"] == "bloom"
    script = (
        "import sys; from rectab.training import load_model; print(load_model('run/model.safetensors').table.method)"
    )
    assert python(folder, "-c", script, plugins="bloom").stdout.strip() == "bloom"
    refused = python(folder, "-c", script)
    assert "it is of the module 'bloom': import it, or set RECTAB_PLUGINS=bloom" in refused.stderr


def test_it_is_swept_and_reported(folder: Path) -> None:
    got = rectab(folder, "sweep", "sweep.toml", "--out", "swept", "--plugin", "bloom")
    assert got.returncode == 0, got.stderr
    records = [json.loads(path.read_text()) for path in (folder / "swept" / "runs").glob("*.json")]
    assert [r["status"] for r in records if r["spec"]["method"] == "bloom"] == ["ok", "ok"]
    assert json.loads((folder / "swept" / "sweep.json").read_text())["plugins"] == ["bloom"]
    assert rectab(folder, "report", "swept", plugins="bloom").returncode == 0
    refused = rectab(folder, "report", "swept")
    assert refused.returncode != 0
    assert "it trained methods ['bloom'], which are not known here; give --plugin bloom" in refused.stderr


def test_an_installed_package_needs_no_option(folder: Path) -> None:
    """An entry point, as an installed distribution has it."""
    info = folder / "bloom-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bloom\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rectab.tables]\nbloom = bloom\nbroken = no_such_module\n")
    try:
        got = python(folder, "-c", "from rectab.tables import get_method; print(get_method('bloom').module)")
        assert got.stdout.strip() == "bloom"
        assert "the table plugin 'no_such_module' cannot be imported: ModuleNotFoundError" in got.stderr
    finally:
        for path in info.iterdir():
            path.unlink()
        info.rmdir()


def test_it_passes_the_contract_suite(folder: Path) -> None:
    """By being registered: the suite asks the registry."""
    contract = Path(__file__).parent / "test_table_contract.py"
    chosen = "bloom and (shapes or ledger or budget or sgd or outside or json or gradients or export or vectors)"
    arguments = ("-m", "pytest", str(contract), "-q", "-k", chosen, "-p", "no:cacheprovider")
    got = python(folder, *arguments, plugins="bloom")
    assert got.returncode == 0, got.stdout[-3000:]
    assert got.stdout.count(".") > 10

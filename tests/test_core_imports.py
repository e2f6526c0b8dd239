"""``pip install rectab`` alone swaps models; what needs more than the core says what to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

WITHOUT_EXTRAS = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""

SWAPS = """
import torch, rectab
from rectab.optim import RowAdam
from rectab.tables import load_table, methods, save_table
for method in ("unified", "dhe", "full"):
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(500, 8), torch.nn.Linear(8, 1))
    result = rectab.swap_(model, method, None if method == "full" else "40%", gradient="row", verbose=False)
    rows = RowAdam(result.row_stores())
    model(torch.randint(0, 500, (4, 3))).sum().backward()
    rows.step()
    save_table(result.tables[0], {path!r})
    load_table({path!r})
print(len(methods()))
"""


def extras() -> set[str]:
    """Modules of every requirement of an extra that is not for development."""
    text = (PROJECT / "pyproject.toml").read_text()
    table = text.split("[project.optional-dependencies]")[1].split("dev = [")[0]
    return {re.split(r"[>=.\[;]", name)[0] for name in re.findall(r'"([^"]+)"', table)} - {"rectab"}


def run_without_extras(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    blocking = WITHOUT_EXTRAS.format(blocked=sorted(extras()))
    command = [sys.executable, "-c", blocking + script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_core_is_what_swapping_needs(tmp_path: Path) -> None:
    assert {"polars", "pydantic", "typer", "rich", "jinja2", "psutil"} <= extras()
    got = run_without_extras(SWAPS.format(path=str(tmp_path / "t.safetensors")))
    assert got.returncode == 0, got.stderr[-2000:]
    assert int(got.stdout) >= 8


@pytest.mark.parametrize(
    ("statement", "extra", "missing"),
    [
        ("import rectab.data", "data", "polars"),
        ("import rectab.training", "data", "polars"),
        ("import rectab.sweep", "sweep", "jinja2"),
        ("from rectab.__main__ import run; run()", "cli", "typer"),
    ],
)
def test_what_needs_an_extra_says_which(statement: str, extra: str, missing: str) -> None:
    got = run_without_extras(statement)
    assert got.returncode == 1
    last = got.stderr.strip().splitlines()[-1]
    assert missing in last
    assert last.endswith(f"pip install 'rectab[{extra}]'")
    assert ("Traceback" in got.stderr) == (extra != "cli")


LOADS_ALL = """
import sys
import numpy as np
from rectab.schema import Vocabulary
from rectab.tables import load_table, methods, plan, save_table
from rectab.tables.family import InfeasibleBudget
vocabularies = [
    Vocabulary(name, size, counts=(20_000 / np.arange(1, size + 1)).astype(np.int64) + 1)
    for name, size in (("user", 4000), ("item", 900))
]
loaded = 0
for method in methods():
    try:
        table = plan(method.name, vocabularies, 8, None if method.name == "full" else "25%").build()
    except InfeasibleBudget:
        continue
    save_table(table, {path!r})
    load_table({path!r})
    loaded += 1
    assert "sympy" not in sys.modules, method.name
print(loaded)
"""


def test_reading_tables_imports_no_compiler(tmp_path: Path) -> None:
    """Torch's operators on the meta device may import it: a second and 140 MB, for a file of a kilobyte."""
    got = run_without_extras(LOADS_ALL.format(path=str(tmp_path / "t.safetensors")))
    assert got.returncode == 0, got.stderr[-2000:]
    assert int(got.stdout) >= 15

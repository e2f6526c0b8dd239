"""The examples of docs/swap.md run as they stand; those of a host run where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
HOSTS = {"deepctr": "deepctr_torch", "fuxictr": "fuxictr", "torchrec": "torchrec"}


def _cases() -> list:
    cases = []
    for path in sorted(EXAMPLES.glob("*.py")):
        host = next((module for name, module in HOSTS.items() if name in path.stem), None)
        marks = []
        if host is not None:
            missing = importlib.util.find_spec(host) is None
            marks = [pytest.mark.host, pytest.mark.skipif(missing, reason=f"{host} is not installed: make test-hosts")]
        cases.append(pytest.param(path, id=path.stem, marks=marks))
    return cases


@pytest.mark.parametrize("path", _cases())
def test_example_runs(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_every_example_is_in_the_docs() -> None:
    text = "".join(path.read_text() for path in EXAMPLES.parent.glob("*.md"))
    assert EXAMPLES.exists()
    assert [p.name for p in EXAMPLES.glob("*.py") if f"examples/{p.name}" not in text] == []

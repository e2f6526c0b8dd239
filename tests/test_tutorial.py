"""docs/tutorial.md, run as it stands: every block of shell and Python, in order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

PROJECT = Path(__file__).parents[1]
NEEDED = ("bash", "cat")


def script_of(page: Path) -> str:
    """The page's blocks as one shell script that stops at the first failure."""
    parts = ["set -e"]
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        parts.append(block if language == "sh" else f"python - <<'PYTHON'\n{block}PYTHON")
    return "\n".join(parts)


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    """Where no compiler is found: compiling the graph takes minutes."""
    tools, folder = tmp_path / "bin", tmp_path / "news"
    tools.mkdir()
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    for name, arguments in (("python", ""), ("rectab", "-m rectab")):
        (tools / name).write_text(f'#!{tools / "bash"}\nexec {sys.executable} {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": str(tools), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    script = script_of(PROJECT / "docs" / "tutorial.md")
    run = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]

    scores = pl.read_parquet(folder / "scores.parquet")
    assert scores["row"].to_list() == [2, 3, 4]
    assert scores["probability"].is_between(0, 1).all()
    told = json.loads((folder / "model.pt2.json").read_text())
    assert told["compared"]["largest_difference"] < 1e-5
    assert "clicked_article" in run.stdout.splitlines()[-1]
    curve = json.loads((folder / "runs" / "small" / "curve.json").read_text())
    assert curve["points"][0]["share"] <= 0.2
    assert curve["points"][0]["valid"]["auc"] > 0.55, "there is something to learn"

"""A prepare killed in the middle leaves no half-made output, and the same command then succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import prepared, raw_lines, recipe, write_lines

from rectab.data import prepare

SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from data_helpers import recipe
from rectab.data import prepare
from rectab.data.storage import ArrayWriter

stage = sys.argv[4]
def tell(message):
    if message.startswith(stage):
        os.kill(os.getpid(), signal.SIGKILL)
if stage == "schema.json":
    ArrayWriter.finish = lambda self, description: os.kill(os.getpid(), signal.SIGKILL)
prepare(recipe(), Path(sys.argv[1]), Path(sys.argv[2]), progress=tell)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("stage", ["writing arrays", "schema.json"])
def test_killed_prepare_leaves_nothing_half_made(tmp_path: Path, stage: str) -> None:
    expected = prepared(tmp_path, name="undisturbed").fingerprint()
    raw, out = tmp_path / "raw", tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(raw), str(out), str(Path(__file__).parent), stage]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    assert list(tmp_path.glob(".out.partial-*"))
    assert prepare(recipe(), raw, out).fingerprint() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "undisturbed"]


def test_temporary_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    import psutil

    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "rows.csv", raw_lines())
    mine = tmp_path / f".out.partial-{os.getpid()}-{int(psutil.Process().create_time())}-12345678"
    stale = tmp_path / f".out.partial-{os.getpid()}-1-12345678"  # the same number, another process
    mine.mkdir()
    stale.mkdir()
    prepare(recipe(), raw, tmp_path / "out")
    assert mine.exists()
    assert not stale.exists()

"""Files appear whole or not at all; what a killed writer left is removed by the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rectab.atomic_file import atomic_file, write_atomic
from rectab.tables.files import read_file, write_file
from rectab.training.checkpoint import Checkpoints

ENDLESS = """
import sys, torch
from pathlib import Path
from rectab.tables.files import write_file
while True:
    write_file(Path(sys.argv[1]), "table", 1, {}, {"rows": torch.zeros(20_000_000)})
"""


def fail_half_way(path: Path) -> None:
    with atomic_file(path) as draft:
        draft.write_text("sec")
        raise OSError("disk full")


def test_a_draft_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomic(path, "first")
    with pytest.raises(OSError, match="disk full"):
        fail_half_way(path)
    assert path.read_text() == "first"
    write_atomic(path, b"second")
    assert path.read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_writer_killed_within_safetensors_leaves_nothing_beside_its_draft(tmp_path: Path) -> None:
    # safetensors writes a hidden file of its own beside the path that it is given.
    path = tmp_path / "stage-000.safetensors"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
    partial = path.with_name(path.name + ".partial")
    end = time.monotonic() + 30  # a version of safetensors that writes no such file is killed all the same
    while process.poll() is None and not list(partial.glob(".*")) and time.monotonic() < end:
        time.sleep(0.0001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, partial.name}
    write_file(path, "table", 1, {}, {"rows": torch.ones(3)})
    assert torch.equal(read_file(path, "table", 1)[1]["rows"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_checkpoints_of_a_killed_run_are_removed_with_what_it_was_writing(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, {}, 0.0)
    partial = folder / "current.safetensors.partial"
    partial.mkdir()
    (partial / ".tmpAbC123").write_bytes(b"half")
    checkpoints.remove()
    assert not folder.exists()

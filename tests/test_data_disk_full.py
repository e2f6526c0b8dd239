"""A disk that fills up at any moment of a prepare is one clear error; nothing half-made stays, and no signal comes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_helpers import raw_lines, recipe, write_lines

from rectab.atomic_file import DiskFullError, atomic_file
from rectab.data import prepare, storage

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(*arguments: object, **options: object) -> None:
    raise FULL


def refuse_like_polars(*arguments: object, **options: object) -> None:
    raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")


PLACES: list[tuple[object, str, Callable[..., None]]] = [
    (os, "posix_fallocate", refuse),
    (pl.LazyFrame, "sink_parquet", refuse_like_polars),
    (pl.DataFrame, "write_parquet", refuse_like_polars),
    (storage.json, "dumps", refuse),
]


@pytest.mark.parametrize(("owner", "name", "fail"), PLACES, ids=[name for _, name, _ in PLACES])
def test_every_writer_names_the_full_disk_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, fail: Callable[..., None]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_lines(raw / "rows.csv", raw_lines())
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(DiskFullError, match="out: no space left on its disk"):
        prepare(recipe(), raw, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_files_are_no_half_ones_either(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "a.json") as draft:
            draft.write_text("half")
            raise RuntimeError("Error while serializing: No space left on device (os error 28)")

    with pytest.raises(DiskFullError, match=r"a\.json: no space left"):
        write()
    assert not list(tmp_path.iterdir())


def test_arrays_have_their_space_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has_fallocate in (True, False):
        if not has_fallocate:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
            monkeypatch.setattr(storage, "_ZEROS", 1000)
        path = tmp_path / f"{has_fallocate}.npy"
        array = storage.create_array(path, np.int32, (1000, 3))
        assert path.stat().st_blocks * 512 >= array.nbytes
        array[...] = 7
        array.flush()
        assert (np.load(path) == 7).all()
        assert not storage.create_array(tmp_path / f"zero-{has_fallocate}.npy", np.int32, (5, 2)).any()


SCRIPT = """
import subprocess, sys
from pathlib import Path
import numpy as np, polars as pl
from rectab.atomic_file import DiskFullError
from rectab.data import Recipe, prepare
raw, disk = Path(sys.argv[1]), Path(sys.argv[2])
n = 30_000
columns = {f"c{i}": np.arange(n) * 7 // (i + 1) for i in range(4)}
pl.DataFrame({"click": np.arange(n) % 2, **columns}).write_parquet(raw / "a.parquet")
features = [{"name": name} for name in columns] + [{"name": "d", "column": "c1", "type": "dense"}]
split = {"by": "row_order", "valid": 0.1, "test": 0.1}
recipe = Recipe.model_validate({"name": "x", "label": {"column": "click"}, "split": split, "features": features,
                                "files": [{"path": "a.parquet"}]})
for kib in (*range(64, 6000, 400), 20_000):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    try:
        prepare(recipe, raw, disk / "out")
        print("done")
    except DiskFullError as error:
        print("full", [path.name for path in disk.iterdir()])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # maps may still be open
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount small disks")
def test_small_disks_of_many_sizes(tmp_path: Path) -> None:
    raw, disk = tmp_path / "raw", tmp_path / "disk"
    raw.mkdir()
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no mounts here")
    subprocess.run(["umount", disk], check=True)
    run = subprocess.run([sys.executable, "-c", SCRIPT, raw, disk], capture_output=True, text=True)
    told = run.stdout.splitlines()
    assert run.returncode == 0, run.stderr
    assert told[0] == "full []"
    assert told[-1] == "done"
    assert set(told) == {"full []", "done"}

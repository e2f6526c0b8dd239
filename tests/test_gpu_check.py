"""``make gpu-check`` without a GPU: its dry run, and that it notices what is wrong or missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.gpu_check import __main__ as command
from bench.gpu_check import parts as check
from bench.gpu_check import row_times
from bench.gpu_check.comparison import Comparison
from bench.gpu_check.parts import PARTS, Part, missing_parts, run_parts, wrong_of
from bench.gpu_check.setting import Setting
from bench.gpu_check.tables import tables
from rectab.ops import use_kernel

QUICK = ("bags", "coalescing", "packed")
SETTING = Setting(torch.device("cpu"), True, 0, 1e10)
ABOUT = {"device": "cpu", "copy_bandwidth": 1e10, "torch": "2", "triton": "3", "dry": True}


def test_a_dry_run_writes_every_part_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    assert command.main(["--dry-run", "--only", *QUICK, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["parts"]) == list(QUICK)
    assert all(found["rows"] and not wrong_of(found) for found in result["parts"].values())
    assert "| coalescing | sums by row | 12 |" in capsys.readouterr().out


ROUNDED = ("int16", "int8", "int6", "int4", "int3", "int2", "ternary", "int1", "fused8", "fused4", "fused2")


def test_a_dry_run_holds_what_is_written_against_the_reference() -> None:
    rows = run_parts([part for part in PARTS if part.name == "writes"], SETTING, ABOUT, None)["parts"]["writes"]
    assert not wrong_of(rows)
    cases = {row["check"]: row["cases"] for row in rows["rows"]}
    assert set(cases) == {"writes", "rows written otherwise", "codes across bytes"}
    assert cases["rows written otherwise"] == 5
    assert cases["writes"] == 2 * 7 + 2  # codes and scale; of fused rows the bytes alone


def test_every_format_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_times, "_measured", lambda setting, make, batches, moved: {"moved_bytes": moved})
    timed = {row["name"]: row["moved_bytes"] for row in row_times.format_times(SETTING)}
    assert set(timed) >= {f"{name} {what}" for name in ROUNDED for what in ("lookup", "step", "write")}
    assert set(timed) >= {f"codes{bits} lookup" for bits in (8, 4, 2)}
    assert timed["fused8 lookup"] == timed["fp32 lookup"] - 26 * 16 * (64 - 24)
    assert 0 < timed["int4 write"] < timed["int16 write"]


@pytest.mark.parametrize("name", ["int8", "fused4", "codes2"])
def test_a_format_is_timed_by_its_kernel(name: str) -> None:
    batch = row_times._batches(SETTING, 2600)[0]
    with use_kernel("triton"):
        row_times._store(SETTING.device, 2600, name, [batch])(batch)
        if name != "codes2":
            row_times._format_write(SETTING.device, 2600, name, [batch])(batch)


def test_a_part_that_raises_is_told_and_the_others_run(tmp_path: Path) -> None:
    def broken(setting: Setting) -> Any:
        raise RuntimeError("no such kernel")

    parts = [Part("broken", broken), Part("empty", lambda _: []), Part("timed", lambda _: [{"name": "x", "ms": 1.0}])]
    result = run_parts(parts, SETTING, ABOUT, tmp_path / "result.json")
    assert "no such kernel" in wrong_of(result["parts"]["broken"])[-1]
    assert missing_parts(result, parts) == ["broken", "empty"]
    assert missing_parts(result, PARTS)[-1] == PARTS[-1].name
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert "| x | 1 |" in tables(result)


def test_a_missing_part_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PARTS", (Part("empty", lambda _: []),))
    assert command.main(["--dry-run", "--out", str(tmp_path / "result.json")]) == 1
    assert command.main(["--dry-run", "--only", "unknown", "--out", str(tmp_path / "result.json")]) == 2


def test_a_comparison_tells_what_differs() -> None:
    compared = Comparison()
    compared.near("sums", "first", torch.tensor([1.0]), torch.tensor([1.001]), 0.01)
    compared.near("sums", "second", torch.tensor([1.0]), torch.tensor([1.1]), 0.01)
    compared.near("sums", "third", torch.tensor([float("nan")]), torch.tensor([1.0]), 0.01)
    compared.equal("bits", "shape", torch.zeros(2), torch.zeros(3))
    compared.case("bits", "raises", lambda: torch.zeros(2).view(3) and None)
    sums, bits = compared.rows()
    assert (sums["cases"], sums["wrong"]) == (3, ["second", "third"])
    assert bits["wrong"][0] == "shape"
    assert bits["wrong"][1].startswith("raises: RuntimeError")


def test_without_a_gpu_it_says_so() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check"], cwd=root, capture_output=True, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr

"""The peak memory of ``prepare`` grows by a few columns a row, not by all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FEW, MANY = 300_000, 1_500_000
BYTES_A_ROW = 200
"""Measured: about 100 (docs/scale.md). Ten columns as polars and numpy hold them take 160 and a copy of them."""


@pytest.mark.slow
def test_peak_memory_grows_by_a_few_columns_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "bench"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("POLARS_MAX_THREADS", "2")  # each thread of it holds rows of its own
    import prepare_memory

    peaks = []
    for rows in (FEW, MANY):
        recipe = prepare_memory.generate(tmp_path / str(rows), rows, "csv")
        peaks.append(prepare_memory.peak_of_prepare(recipe, tmp_path / str(rows) / "prepared")[0])
    assert peaks[1] - peaks[0] < BYTES_A_ROW * (MANY - FEW), f"peaks of {peaks} bytes; {sys.version}"

"""Scores of rows in a file that appears whole: parquet, or csv by its ending."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rectab.atomic_file import atomic_file

__all__ = ["check_out", "write_scores"]

_ENDINGS = (".parquet", ".csv")


def check_out(path: Path) -> None:
    """Raises ValueError for a file whose ending is not known, before the work is done."""
    if path.suffix not in _ENDINGS:
        raise ValueError(f"--out {path}: the name must end in {' or '.join(_ENDINGS)}")


def write_scores(frame: pl.DataFrame, path: Path) -> None:
    """Write (file, row, probability)."""
    with atomic_file(path) as draft:
        if path.suffix == ".csv":
            frame.write_csv(draft)
        else:
            frame.write_parquet(draft)

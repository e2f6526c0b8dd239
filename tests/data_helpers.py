"""A small raw data set in a delimited file, its recipe, and ways to spoil it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from rectab.data import PreparedDataset, Recipe, prepare

HEADER = ["click", "user", "item", "time", "price", "age"]


def raw_lines(n: int = 40, seed: int = 0) -> list[list[str]]:
    """Rows of HEADER as text; time rises with the row; every seventh price is missing."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        user, item = generator.integers(0, 5), generator.integers(0, 9)
        price = "" if i % 7 == 3 else f"{generator.random() * 10:.3f}"
        rows.append([str(i % 2), f"u{user}", f"i{item}", str(100 + i // 2), price, str(20 + i % 30)])
    return rows


def write_lines(path: Path, rows: list[list[str]], header: list[str] | None = HEADER, separator: str = ",") -> Path:
    lines = ([header] if header is not None else []) + rows
    text = "".join(separator.join(line) + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def recipe(**changes: Any) -> Recipe:
    """A recipe of HEADER's columns; keyword arguments replace its keys."""
    base: dict[str, Any] = {
        "name": "small",
        "files": [{"path": "rows.csv"}],
        "group": "user",
        "time": "time",
        "label": {"column": "click"},
        "features": [
            {"name": "user"},
            {"name": "item"},
            {"name": "price", "type": "dense"},
        ],
        "split": {"by": "row_order", "valid": 8, "test": 8},
    }
    return Recipe.model_validate({k: v for k, v in {**base, **changes}.items() if v is not None})


def prepared(tmp_path: Path, rows: list[list[str]] | None = None, name: str = "out", **changes: Any) -> PreparedDataset:
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    if rows is not None or not (raw / "rows.csv").exists():
        write_lines(raw / "rows.csv", raw_lines() if rows is None else rows)
    return prepare(recipe(**changes), raw, tmp_path / name)


def values_of(dataset: PreparedDataset, vocabulary: str) -> dict[int, str | None]:
    """id -> raw value of a fitted vocabulary."""
    import polars as pl

    index = dataset.schema.vocabulary_index(vocabulary)
    table = pl.read_parquet(dataset.path / f"vocabularies/{index}_values.parquet", glob=False)
    return dict(zip(table["id"], table["value"], strict=True))

"""Generated rows in the layout of Criteo, as three comma-separated files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

__all__ = ["CATEGORIES", "INTEGERS", "SPLITS", "generate"]

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
SIZES = [int(10 ** (1 + 5.3 * index / 25)) for index in range(26)]  # ids of a column: from 10 to 2 million
SPLITS = {"train": 0.8, "valid": 0.1, "test": 0.1}
CHUNK = 200_000


def generate(rows: int, folder: Path) -> None:
    """Write train.csv, valid.csv and test.csv; ids of a column follow Zipf's law with exponent 1.1."""
    generator = np.random.default_rng(0)
    laws = [np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -1.1) for size in SIZES]
    for split, share in SPLITS.items():
        left = int(rows * share)
        with (folder / f"{split}.csv").open("wb") as file:
            while left > 0:
                count = min(left, CHUNK)
                _chunk(generator, laws, count).write_csv(file, include_header=left == int(rows * share))
                left -= count


def _chunk(generator: np.random.Generator, laws: list[np.ndarray], count: int) -> pl.DataFrame:
    columns = {"label": (generator.random(count) < 0.25).astype(np.int64)}
    columns |= {name: generator.geometric(0.1, count) for name in INTEGERS}
    frame = pl.DataFrame(columns).with_columns(
        pl.when(pl.Series(generator.random(count) < 0.2)).then(None).otherwise(pl.col(name)).alias(name)
        for name in INTEGERS
    )
    drawn = {}
    for name, law in zip(CATEGORIES, laws, strict=True):
        ranks = np.searchsorted(law, generator.random(count) * law[-1])
        words = (ranks.astype(np.uint64) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
        # eight digits, looked up four at a time
        drawn[name] = _HEX.gather(words >> np.uint64(16)) + _HEX.gather(words & np.uint64(0xFFFF))
    return frame.with_columns(**drawn)


_HEX = pl.Series([f"{word:04x}" for word in range(1 << 16)])

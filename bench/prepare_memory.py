"""How much memory `rectab prepare` takes for many rows: generates a file of them, prepares it, prints the peak.

    python bench/prepare_memory.py ROWS --in FOLDER [--format csv|parquet] [--json FILE]

A row has a label, seven ids (skewed; of 2 million users, of 500,000 items as text, ...), a number and a time; a tenth
of the rows are validation and a tenth test, by time. ``prepare`` runs in a process of its own, whose peak is the
system's ``ru_maxrss``: pages of files that it maps count as well. What is generated stays in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

CHUNK = 500_000
IDS = {"user": 2_000_000, "item": 500_000, "shop": 50_000, "page": 2_000, "city": 400, "device": 20, "hour": 24}

RECIPE = """
name = "many"
description = "generated rows"
source = "bench/prepare_memory.py"
features = [
{features}
    {{ name = "price", type = "dense" }},
]
time = "time"

[[files]]
path = "rows.{format}"

[label]
column = "label"

[split]
by = "time"
valid = 0.1
test = 0.1
"""


def chunk(first: int, rows: int) -> pl.DataFrame:
    """Rows from number ``first`` on."""
    rng = np.random.default_rng([7, first])
    columns: dict[str, object] = {"label": rng.integers(0, 2, rows)}
    for name, size in IDS.items():
        ids = (rng.random(rows) ** 3 * size).astype(np.int64)
        columns[name] = pl.Series(ids).cast(pl.String) + "x" if name == "item" else ids
    columns["price"] = rng.gamma(2.0, 10.0, rows).round(2)
    columns["time"] = 1_700_000_000 + np.arange(first, first + rows)
    return pl.DataFrame(columns)


def generate(folder: Path, rows: int, kind: str) -> Path:
    """Write the rows and the recipe; what is there already is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    features = "\n".join(f'    {{ name = "{name}" }},' for name in IDS)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(features=features, format=kind))
    path = folder / f"rows.{kind}"
    if path.exists():
        return recipe
    draft = path.with_suffix(".draft")
    starts = range(0, rows, CHUNK)
    if kind == "csv":
        with draft.open("wb") as file:
            for first in starts:
                chunk(first, min(CHUNK, rows - first)).write_csv(file, include_header=first == 0)
    else:
        pl.concat([chunk(first, min(CHUNK, rows - first)).lazy() for first in starts]).sink_parquet(draft)
    draft.rename(path)
    return recipe


def peak_of_prepare(recipe: Path, out: Path) -> tuple[int, float]:
    """(bytes, seconds) of ``rectab prepare`` in a process of its own."""
    command = [sys.executable, "-m", "rectab", "prepare", recipe, "--raw", recipe.parent, "--out", out, "--overwrite"]
    begin = time.perf_counter()
    child = os.posix_spawn(sys.executable, [*map(str, command)], os.environ)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"prepare ended with status {status}")
    return used.ru_maxrss * 1024, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("--in", dest="folder", type=Path, required=True)
    parser.add_argument("--format", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    recipe = generate(given.folder, given.rows, given.format)
    size = (given.folder / f"rows.{given.format}").stat().st_size
    peak, seconds = peak_of_prepare(recipe, given.folder / "prepared")
    made = {"rows": given.rows, "format": given.format, "file_bytes": size, "peak_bytes": peak, "seconds": seconds}
    print(f"{given.rows:,} rows, {size / 2**30:.2f} GiB {given.format}: peak {peak / 2**30:.2f} GiB, {seconds:.0f} s")
    if given.json is not None:
        given.json.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()

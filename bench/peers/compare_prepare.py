"""`rectab prepare` beside FuxiCTR's preprocessing, on generated rows in the layout of Criteo.

    .venv-peers/bin/python bench/peers/compare_prepare.py --rows 5000000

The same three comma-separated files (8 : 1 : 1) for both: 13 integer columns taken as float features without a
transform, 26 categorical columns of 8 hex digits whose ids need 10 occurrences in training. Each library runs in a
process of its own, in turn, and writes what it would train from; who is first changes from round to round. Seconds are
of the whole process, start included. Before anything is timed both prepare a few rows: rectab's numba kernels are
compiled then, once for this machine, and both libraries lie in the file cache. A library that does not end within
``--timeout`` is not tried again. Both may use every core that the process may.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from criteo_rows import CATEGORIES, INTEGERS, SPLITS, generate
from rounds import ratio_text, write_json

_RECIPE = """
name = "generated_criteo"
description = "generated rows in the layout of Criteo"
source = "bench/peers/compare_prepare.py"
terms = "none"
features = [
{features}
]

{files}
[label]
column = "label"
"""


def rectab_command(folder: Path) -> list[str]:
    lines = [f'    {{ name = "{name}", type = "dense" }},' for name in INTEGERS]
    lines += [f'    {{ name = "{name}", min_count = 10 }},' for name in CATEGORIES]
    files = "".join(f'[[files]]\npath = "{split}.csv"\nsplit = "{split}"\n\n' for split in SPLITS)
    recipe = folder / "recipe.toml"
    recipe.write_text(_RECIPE.format(features="\n".join(lines), files=files))
    command = [sys.executable, "-m", "rectab", "prepare", str(recipe)]
    return [*command, "--raw", str(folder), "--out", str(folder / "rectab")]


_FUXICTR = """
import sys
import polars as pl
scan_csv = pl.scan_csv  # FuxiCTR 2.3.10 passes an argument by the name it had before polars 2
pl.scan_csv = lambda *args, dtypes, **kwargs: scan_csv(*args, schema_overrides=dtypes, **kwargs)
from fuxictr.preprocess import FeatureProcessor, build_dataset
folder = sys.argv[1]
features = [
    {{"name": {integers}, "active": True, "dtype": "float", "type": "numeric", "fill_na": 0}},
    {{"name": {categories}, "active": True, "dtype": "str", "type": "categorical", "fill_na": ""}},
]
encoder = FeatureProcessor(feature_cols=features, label_col={{"name": "label", "dtype": "float"}},
                           dataset_id="fuxictr", data_root=folder)
build_dataset(encoder, train_data=f"{{folder}}/train.csv", valid_data=f"{{folder}}/valid.csv",
              test_data=f"{{folder}}/test.csv", min_categr_count=10, data_format="csv")
"""


def fuxictr_command(folder: Path) -> list[str]:
    script = folder / "fuxictr_prepare.py"
    script.write_text(_FUXICTR.format(integers=INTEGERS, categories=CATEGORIES))
    return [sys.executable, str(script), str(folder)]


LIBRARIES: dict[str, Callable[[Path], list[str]]] = {"rectab": rectab_command, "FuxiCTR": fuxictr_command}
"""The command that prepares the files of a folder, into a folder within it that is named like the library."""


def seconds_of(library: str, folder: Path, timeout: float) -> float | None:
    """Of one run; None if it was not done in time. Raises SystemExit if it failed."""
    command = LIBRARIES[library](folder)
    shutil.rmtree(folder / library.lower(), ignore_errors=True)  # FuxiCTR does nothing where its results lie already
    start = time.perf_counter()
    try:
        done = subprocess.run(command, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        print(f"{library:10s} not done after {timeout:.0f} s", flush=True)
        return None
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{library} failed:\n{done.stderr[-2000:]}")
    print(f"{library:10s} {seconds:7.1f} s", flush=True)
    return seconds


def warm_up() -> None:
    with tempfile.TemporaryDirectory() as name:
        generate(2000, Path(name))
        for library in LIBRARIES:
            seconds_of(library, Path(name), timeout=600)


def summarize(seconds: dict[str, list[float | None]], timeout: float, **more: Any) -> list[dict[str, Any]]:
    """A row a library: seconds of its rounds (None where it was not done in time), quartiles of its ratio to rectab."""
    rows = []
    for library, times in seconds.items():
        done = [value for value in times if value is not None]
        pairs = zip(times, seconds["rectab"], strict=False)
        ratios = [own / ours for own, ours in pairs if own is not None and ours is not None]
        spread = {"rectab": np.percentile(ratios, [25, 50, 75]).tolist()} if ratios else {}
        measured = {"seconds": times, "median_seconds": statistics.median(done) if done else None, "ratios": spread}
        rows.append({"name": library, **more, "timeout": timeout, "timed_out": None in times, **measured})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a library is given up on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print("a few rows, not counted:", flush=True)
    warm_up()
    seconds: dict[str, list[float | None]] = {library: [] for library in LIBRARIES}
    with tempfile.TemporaryDirectory() as name:
        folder, threads = Path(name), len(os.sched_getaffinity(0))
        generate(arguments.rows, folder)
        size = sum((folder / f"{split}.csv").stat().st_size for split in SPLITS)
        print(f"{arguments.rows:,} rows, {size / 1e6:.0f} MB of csv, {threads} threads", flush=True)
        for index in range(arguments.rounds):
            for library in list(LIBRARIES)[:: -1 if index % 2 else 1]:
                if None in seconds[library]:
                    continue
                seconds[library].append(seconds_of(library, folder, arguments.timeout))
                rows = summarize(seconds, arguments.timeout, rows=arguments.rows, csv_bytes=size, threads=threads)
                write_json(arguments.json, rows)
    for row in rows:
        ratio = f"x {ratio_text(row['ratios']['rectab'])} of rectab" if row["ratios"] else "nothing to compare"
        print(f"{row['name']:10s} in {len(row['seconds'])} rounds {ratio}", flush=True)


if __name__ == "__main__":
    main()

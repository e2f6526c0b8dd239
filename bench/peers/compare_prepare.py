"""`rectab prepare` beside FuxiCTR's preprocessing, on generated rows in the layout of Criteo.

    .venv-peers/bin/python bench/peers/compare_prepare.py --rows 5000000

The same three comma-separated files (8 : 1 : 1) for both: 13 integer columns taken as float features without a
transform, 26 categorical columns of 8 hex digits whose ids need 10 occurrences in training. Each library runs in a
process of its own, in turn, and writes what it would train from.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from rounds import write_json

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


def run_rectab(folder: Path) -> list[str]:
    lines = [f'    {{ name = "{name}", type = "dense" }},' for name in INTEGERS]
    lines += [f'    {{ name = "{name}", min_count = 10 }},' for name in CATEGORIES]
    files = "".join(f'[[files]]\npath = "{split}.csv"\nsplit = "{split}"\n\n' for split in SPLITS)
    recipe = folder / "recipe.toml"
    recipe.write_text(_RECIPE.format(features="\n".join(lines), files=files))
    return [sys.executable, "-m", "rectab", "prepare", str(recipe), "--raw", str(folder),
            "--out", str(folder / "rectab")]  # fmt: skip


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


def run_fuxictr(folder: Path) -> list[str]:
    script = folder / "fuxictr_prepare.py"
    script.write_text(_FUXICTR.format(integers=INTEGERS, categories=CATEGORIES))
    return [sys.executable, str(script), str(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a library is given up on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(arguments.rows, folder)
        size = sum((folder / f"{split}.csv").stat().st_size for split in SPLITS)
        print(f"{arguments.rows:,} rows, {size / 1e6:.0f} MB of csv", flush=True)
        for library, command in (("rectab", run_rectab(folder)), ("FuxiCTR", run_fuxictr(folder))):
            start = time.perf_counter()
            try:
                done = subprocess.run(command, timeout=arguments.timeout, capture_output=True, text=True)
            except subprocess.TimeoutExpired:
                print(f"{library:10s} not done after {arguments.timeout:.0f} s")
                continue
            seconds = time.perf_counter() - start
            if done.returncode:
                sys.exit(f"{library} failed:\n{done.stderr[-2000:]}")
            rows.append({"name": library, "rows": arguments.rows, "csv_bytes": size, "seconds": seconds})
            print(f"{library:10s} {seconds:7.1f} s, {arguments.rows / seconds:,.0f} rows a second", flush=True)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()

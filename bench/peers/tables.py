"""The Markdown tables of docs/performance.md, from what the comparisons wrote.

    .venv-peers/bin/python bench/peers/tables.py runs/bench --bench runs/bench.json

Brackets are the quartiles of a ratio over rounds; of the time to an AUC, the least and most over seeds. A comparison
that was not run is named instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rounds import ratio_text
from targets import targets

Row = dict[str, Any]
SHOWN = {"rows": 1_420_000, "dim": 16}  # the size whose candidates are all shown


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(row: Row | None, reference: str | None = None) -> str:
    """To the reference of the row's group, or to the one named."""
    ratios = row["ratios"] if row else {}
    found = ratios.get(reference) if reference else next(iter(ratios.values()), None)
    return ratio_text(found) if found else "-"


def rows_tables(found: Row) -> str:
    rows = found["rows"]
    shown = [row for row in rows if all(row[key] == value for key, value in SHOWN.items())]
    columns = ["group", "candidate", "kernel", "gradient", "ms", "share of copy", "times the first of the group"]
    heads = [[r["group"], r["name"], r["kernel"] or "-", r["gradient"]] for r in shown]
    cells = [
        [*head, number(r["median_ms"]), f"{r['copy_share']:.0%}", ratio(r)]
        for head, r in zip(heads, shown, strict=True)
    ]
    what = f"{SHOWN['rows']:,} rows, D = {SHOWN['dim']}; {_threads(rows)}; copy "
    what += f"{found['copy_bytes_per_second'] / 1e9:.1f} GB/s."
    told = [line for line in found["left_out"] if "nothing to compare" not in line]  # what it lacks is told itself
    missing = "".join(f"\n* left out of {line}" for line in told)
    return f"{what}\n\n{table(columns, cells)}\n\n{_all_sizes(rows)}\n{missing}"


def _all_sizes(rows: list[Row]) -> str:
    columns = ["rows", "D", "RowStore lookup, ms", "share of copy", "TBE / RowStore", "RowAdagrad step, ms"]
    columns += ["share of copy", "TBE / RowAdagrad", "RowAdam step, ms", "share of copy", "SparseAdam / RowAdam"]
    columns += ["RowAdam + L2 / RowAdam"]
    lines = []
    for num_rows, dim in dict.fromkeys((row["rows"], row["dim"]) for row in rows):
        size = {row["name"]: row for row in rows if (row["rows"], row["dim"]) == (num_rows, dim)}
        line = [f"{num_rows:,}", str(dim)]
        for ours, *others in (
            ("rectab RowStore", "fbgemm TBE"),
            ("rectab RowAdagrad", "fbgemm TBE rowwise Adagrad"),
            ("rectab RowAdam", "Embedding + SparseAdam", "rectab RowAdam + L2"),
        ):
            own = size.get(ours)
            line += [number(own["median_ms"]), f"{own['copy_share']:.0%}"] if own else ["-", "-"]
            line += [ratio(size.get(other)) for other in others]
        lines.append(line)
    return table(columns, lines)


def sizes_table(found: Row) -> str:
    rows = found["rows"]
    cells = [[r["optimizer"], r["name"], r["kernel"], number(r["median_ms"]), ratio(r)] for r in rows]
    columns = ["step", "table", "kernel", "ms", "times the smallest"]
    return f"D = {rows[0]['dim']}; {_threads(rows)}.\n\n{table(columns, cells)}"


def models_table(found: Row) -> str:
    rows = found["rows"]
    heads = [[r["model"], f"{r['rows']:,}"] for r in rows]
    return f"{_threads(rows)}.\n\n{table(['model', 'rows', *_STEP], _step_cells(rows, heads))}"


def din_table(found: Row) -> str:
    rows = found["rows"]
    what = f"at most {rows[0]['length']} events, mean {rows[0]['mean_length']:.0f}; batch {rows[0]['batch']}"
    return f"{what}; {_threads(rows)}.\n\n{table(_STEP, _step_cells(rows, [[] for _ in rows]))}"


_STEP = ["library", "precision", "gradient", "kernel", "ms", "times rectab fp32", "times rectab bf16"]


def _step_cells(rows: list[Row], heads: list[list[str]]) -> list[list[str]]:
    return [
        [*head, r["name"], r["precision"], r["gradient"], r.get("kernel", "-"), number(r["median_ms"])]
        + [ratio(r, f"rectab {precision}") for precision in ("fp32", "bf16")]
        for head, r in zip(heads, rows, strict=True)
    ]


def auc_table(found: Row) -> str:
    columns = ["model", "validation AUC", "library", "precision", "threads", "gradient", "steps", "seconds"]
    cells = []
    for r in found["rows"]:
        steps, seconds = ([value for value in r[key] if value is not None] for key in ("steps", "seconds"))
        medians = [f"{statistics.median(steps):.0f}", number(statistics.median(seconds))] if steps else ["-", "-"]
        head = [r["model"], str(r["auc"]), r["name"], r["precision"], str(r["threads"]), r["gradient"]]
        cells.append([*head, *medians, ratio(r), f"{len(steps)} of {len(r['steps'])}"])
    return f"{found['data']}.\n\n{table([*columns, 'times rectab bf16', 'seeds that reached it'], cells)}"


def prepare_table(found: Row) -> str:
    columns = ["rows", "csv", "threads", "library", "seconds of each round", "median", "times rectab"]
    cells = []
    for r in found["rows"]:
        late = f"not done after {r['timeout']:.0f} s"
        rounds = ", ".join(late if value is None else number(value) for value in r["seconds"])
        head = [f"{r['rows']:,}", f"{r['csv_bytes'] / 1e6:,.0f} MB", str(r["threads"]), r["name"]]
        cells.append([*head, rounds, number(r["median_seconds"]), ratio(r)])
    return table(columns, cells)


def serving_table(found: Row) -> str:
    timed = _benchmarks(found, "test_dcnv2_latency")
    cells = [
        [i["method"], str(i["batch_size"]), str(i["threads"]), number(i["median_ms"]), number(i["p99_ms"])]
        for i, _ in timed
    ]
    return table(["table", "batch", "threads", "median, ms", "99th percentile, ms"], cells)


def methods_table(found: Row) -> str:
    steps = {info["method"]: ms for info, ms in _benchmarks(found, "test_table_step")}
    cells = [
        [i["method"], i["served"], f"{i['serving_bytes']:,}", number(ms), number(steps.get(i["method"]))]
        for i, ms in _benchmarks(found, "test_table_lookup")
    ]
    return table(["table", "served as", "bytes served", "lookup, ms", "training step, ms"], cells)


def _benchmarks(found: Row, test: str) -> list[tuple[Row, float]]:
    """(circumstances, median ms) of a test of ``make bench``."""
    entries = [entry for entry in found["benchmarks"] if entry["name"].partition("[")[0] == test]
    return [(entry["extra_info"], entry["stats"]["median"] * 1e3) for entry in entries]


def _threads(rows: list[Row]) -> str:
    return f"{rows[0]['threads']} threads, {rows[0]['rounds']} rounds"


COMPARISONS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("Rows", "rows", rows_tables),
    ("Tables of different size", "sizes", sizes_table),
    ("Whole training steps", "models", models_table),
    ("DIN", "din", din_table),
    ("Time to the same AUC", "auc", auc_table),
    ("prepare", "prepare", prepare_table),
]
BENCHMARKS: list[tuple[str, Callable[[Row], str]]] = [("Serving", serving_table), ("Tables", methods_table)]


def read(path: Path) -> Row | None:
    return json.loads(path.read_text()) if path.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the comparisons' results")
    parser.add_argument("--bench", type=Path, default=Path("runs/bench.json"), help="result of `make bench`")
    arguments = parser.parse_args()
    found = {name: read(arguments.folder / f"{name}.json") for _, name, _ in COMPARISONS}
    for title, name, make in COMPARISONS:
        given = found[name]
        print(f"## {title}\n\n{make(given) if given else f'Not run: no {arguments.folder / name}.json'}\n")
    given = read(arguments.bench)
    for title, make in BENCHMARKS:
        print(f"## {title}\n\n{make(given) if given else f'Not run: no {arguments.bench}'}\n")
    print(f"## Targets\n\n{table(['target', 'measured', 'met'], targets(found))}")


if __name__ == "__main__":
    main()

"""The Markdown tables of docs/performance.md, from the result of a check: ``python -m bench.gpu_check.tables FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["tables"]


def tables(result: dict[str, Any]) -> str:
    """What was checked, then the times of every part that has them."""
    parts = {name: found["rows"] for name, found in result["parts"].items()}
    checks = [(name, row) for name, rows in parts.items() for row in rows if "check" in row]
    head = f"{result['device']}, copy {result['copy_bandwidth'] / 1e12:.2f} TB/s, torch {result['torch']}, triton "
    head += result["triton"] + (", dry run" if result["dry"] else "")
    lines = [head, _table(("part", "check", "cases", "worst / allowed", "wrong"), map(_check_cells, checks))]
    for name, rows in parts.items():
        timed = [row for row in rows if "check" not in row]
        if timed:
            lines += [name, _table(_columns(timed), (_cells(row, _columns(timed)) for row in timed))]
    return "\n\n".join(lines)


def _check_cells(found: tuple[str, dict[str, Any]]) -> list[str]:
    part, row = found
    if "left_out" in row:
        return [part, row["check"], f"left out: {row['left_out']}", "", ""]
    return [part, row["check"], str(row["cases"]), f"{row['worst']:.2g}", str(len(row["wrong"]))]


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key != "moved_bytes"]


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    return [_text(key, row.get(key)) for key in columns]


def _text(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "copy_share":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))

"""The project's targets for speed, beside what was measured. A target that holds for several models lists them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rounds import ratio_text

__all__ = ["targets"]

Spread = tuple[float, float, float]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """Attributes:
    text: what is wanted.
    source: comparison that measures it.
    measured: from its rows, (what, ratio) of every case.
    bound: of the middle of the ratio.
    at_most: whether the ratio may not be above it, or not below.
    """

    text: str
    source: str
    measured: Callable[[Rows], list[tuple[str, Spread]]]
    bound: float
    at_most: bool = False


def _ratios(reference: str, label: str = "", inverse: bool = False, **wanted: Any) -> Callable[[Rows], Any]:
    """Of the rows with these values to the reference; ``label`` is the field that tells them apart."""

    def measured(rows: Rows) -> list[tuple[str, Spread]]:
        found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
        spreads = [(str(row.get(label, "")), row["ratios"].get(reference)) for row in found]
        turned = (lambda s: (1 / s[2], 1 / s[1], 1 / s[0])) if inverse else (lambda s: s)
        return [(text, turned(spread)) for text, spread in spreads if spread]

    return measured


_SIZE = {"rows": 1_420_000, "dim": 16}
_BF16 = "rectab bf16"
TARGETS = [
    Target(
        "lookup <= 0.5 of TBE's time, 1.42 M rows, D = 16",
        "rows",
        _ratios("rectab RowStore fp32", inverse=True, name="fbgemm TBE", **_SIZE),
        0.5,
        at_most=True,
    ),
    Target(
        "row-wise Adagrad step <= 0.5 of TBE's",
        "rows",
        _ratios("rectab RowAdagrad fp32", inverse=True, name="fbgemm TBE rowwise Adagrad", **_SIZE),
        0.5,
        at_most=True,
    ),
    Target(
        "SparseAdam's step >= 6 times RowAdam's",
        "rows",
        _ratios("rectab RowAdam fp32", name="Embedding + SparseAdam", **_SIZE),
        6,
    ),
    Target(
        "step at 5 x 10^7 rows <= 1.6 of that at 10^5",
        "sizes",
        _ratios("100,000 rows fp32", "optimizer", rows=50_000_000),
        1.6,
        at_most=True,
    ),
    Target(
        "DCNv2 >= 4 times FuxiCTR's throughput, 1.42 M rows (bf16)",
        "models",
        _ratios(_BF16, name="FuxiCTR", model="dcnv2", rows=1_420_000),
        4,
    ),
    Target(
        "DCNv2 >= 25 times, 14 M rows (bf16)",
        "models",
        _ratios(_BF16, name="FuxiCTR", model="dcnv2", rows=14_000_000),
        25,
    ),
    Target("DIN >= 3 times FuxiCTR's throughput (bf16)", "din", _ratios(_BF16, name="FuxiCTR"), 3),
    Target(
        "time to an AUC of 0.98 on frappe >= 3 times shorter (bf16)",
        "auc",
        _ratios(_BF16, "model", name="FuxiCTR", auc=0.98),
        3,
    ),
    Target("prepare >= 5 times FuxiCTR's, 5 M rows", "prepare", _ratios("rectab", name="FuxiCTR", rows=5_000_000), 5),
]


def targets(found: dict[str, dict[str, Any] | None]) -> list[list[str]]:
    """Cells of a table: target, measured, met. ``found`` has the result of every comparison by name."""
    lines = []
    for target in TARGETS:
        result = found.get(target.source)
        cases = target.measured(result["rows"]) if result else []
        texts = [f"{what} {ratio_text(spread)}".strip() for what, spread in cases]
        good = [spread[1] <= target.bound if target.at_most else spread[1] >= target.bound for _, spread in cases]
        met = "yes" if all(good) else "in part" if any(good) else "**no**"
        lines.append([target.text, "; ".join(texts) or "not measured", met if cases else "open"])
    return lines

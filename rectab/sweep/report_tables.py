"""The tables of the report, as plain data that HTML and Markdown are both made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Cell, Section
from rectab.sweep.report_costs import cost_table, slices_table
from rectab.sweep.report_values import (
    ReportTable,
    Value,
    cell_head,
    columns_of,
    difference_value,
    estimate_value,
    in_order,
    method_value,
    share_value,
    size_value,
)
from rectab.sweep.row_intervals import RowIntervals
from rectab.sweep.statistics import DECIDING_SEEDS, Estimate, holm

__all__ = ["section_tables", "verdict"]

EQUAL_AUC_LOSSES = (0.0005, 0.001, 0.002, 0.005, 0.01)


def section_tables(
    section: Section, train_limits: Mapping[str, int] | None = None, rows: RowIntervals | None = None
) -> dict[str, ReportTable]:
    """The tables of one section, by key; those without a row are left out. ``train_limits``: bytes, smallest first;
    ``rows``: of the sweep."""
    makers = (_all_cells, _rankings, _equal_bytes, _equal_auc, partial(_paired, over_rows=rows), _leads, _pareto)
    tables = [maker(section) for maker in (*makers, slices_table, cost_table)]
    tables.append(_within_training(section, train_limits or {}))
    return {table.key: table for table in tables if table.rows}


def _all_cells(section: Section) -> ReportTable:
    rows = []
    for cell in in_order(section):
        measured = [cell.estimate(name) for name in ("auc", "gauc", "logloss", "calibration", "valid_auc")]
        sizes = [cell.estimate(name) for name in ("training_bytes", "map_bytes", "dense_bytes")]
        small = "" if cell is section.full else "serve" if cell.serves_small_only else "train, serve"
        further = [*(size_value(size.mean if size else None) for size in sizes), Value(small)]
        rows.append([*cell_head(cell), *map(estimate_value, measured), *further, Value(str(cell.auc.n), cell.auc.n)])
    return ReportTable(
        "results",
        "All results",
        "Means over seeds on the test split, ± the half-width of the 95 % Student-t interval for the mean. Bytes are "
        "those of the deployed table, counted, indexes included; the share is of the fp32 full table. Calibration is "
        "mean prediction over mean label. Training: bytes of table, gradients, optimizer state and copy of the best "
        "weights. Id map: what new rows need to find their ids in the table. Network: the model beside the table. "
        "Small to: whether training takes a full table. Click a heading to sort.",
        columns_of(
            *("Table", "Budget", "Bytes", "Share", "AUC", "GAUC", "Logloss", "Calibration", "Validation AUC"),
            *("Training", "Id map", "Network", "Small to", "Seeds"),
            text=("Table", "Budget", "Small to"),
        ),
        rows,
    )


def _rankings(section: Section) -> ReportTable:
    """Recall and NDCG of runs that rank items; no rows for clicks."""
    rows = []
    for cell in in_order(section):
        found = [cell.estimate(name) for name in ("recall", "ndcg")]
        if None not in found:
            own = section.full is not None and cell is not section.full
            change = cell.difference(section.full, "ndcg") if own and section.full else None
            rows.append([*cell_head(cell), *map(estimate_value, found), difference_value(change)])
    length = next((cell.any_row["list_length"] for cell in section.cells if cell.any_row["list_length"]), 0)
    return ReportTable(
        "rankings",
        f"Rankings: recall and NDCG at {length}",
        "Of all items for every user of the test split, without those of training and validation. AUC in the other "
        "tables is that within a user: the share of pairs of a taken and another item that are in order.",
        columns_of("Table", "Budget", "Bytes", "Share", "Recall", "NDCG", "NDCG \N{MINUS SIGN} full"),
        rows,
    )


def _equal_bytes(section: Section) -> ReportTable:
    methods = [m for m in section.methods if any(cell.budget is not None for cell in section.cells_of(m))]
    rows = []
    for size in reversed(section.equal_bytes()):
        found = {method: section.auc_at_bytes(method, size) for method in methods}
        best = max((value.mean for value in found.values() if value is not None), default=None)
        values = [
            estimate_value(value, "best" if value is not None and len(methods) > 1 and value.mean == best else "")
            for value in found.values()
        ]
        rows.append([size_value(size), share_value(size / section.full_bytes), *values])
    return ReportTable(
        "equal-bytes",
        "AUC at equal bytes",
        "Read across: what each method makes of the same memory. Interpolated seed by seed, linear in AUC over the "
        "logarithm of bytes, between measured points only; an end point also stands for sizes within 3 % of it.",
        columns_of("Bytes", "Share", *methods, text=()),
        rows,
    )


def _equal_auc(section: Section) -> ReportTable:
    reference = section.full
    methods = [method for method in section.methods if reference is None or method != reference.method]
    rows = []
    for loss in EQUAL_AUC_LOSSES if reference is not None else ():
        values = [_bytes_for(section, reference, method, loss) for method in methods]  # type: ignore[arg-type]
        rows.append([Value(fmt.number(loss), loss), *values])
    return ReportTable(
        "equal-auc",
        "Bytes at equal AUC",
        "Fewest bytes at which a method comes within so much of the full table's mean AUC, on the curve of means; in "
        "brackets the range when each seed is compared with the full table of the same seed. ≤: already the smallest "
        "table measured is good enough. Interpolated as above, never extrapolated.",
        columns_of("Allowed loss of AUC", *methods, text=()),
        rows if methods else [],
    )


def _bytes_for(section: Section, reference: Cell, method: str, loss: float) -> Value:
    curve, target = section.curve(method), reference.auc.mean - loss
    found = curve.bytes_at(target)
    if found is None:
        return Value("not reached", float("inf"))
    sign = "≤ " if curve.starts_above(target) else ""
    text = f"{sign}{fmt.size(found)} ({fmt.share(found / section.full_bytes)})"
    by_seed = {
        seed: section.curve(method, seed).bytes_at(reference.rows[seed]["auc"] - loss)
        for seed in section.seeds
        if seed in reference.rows
    }
    reached = [size for size in by_seed.values() if size is not None]
    if len(by_seed) > 1:
        spread = f"{fmt.size(min(reached))} to {fmt.size(max(reached))}" if reached else "no seed"
        missed = "" if len(reached) == len(by_seed) else f", {len(reached)} of {len(by_seed)} seeds"
        text += f" [{spread}{missed}]"
    return Value(text, found)


def verdict(value: Estimate | None) -> Value:
    """What a paired difference says: better, worse, within the noise, or nothing."""
    if value is None:
        return Value("no common seed", 0.0)
    if value.half_width is None:
        return Value("one seed: cannot tell", 0.0)
    if not value.excludes_zero:
        return Value("two seeds: cannot decide" if value.n < DECIDING_SEEDS else "within the noise", 0.0)
    return Value("better", 1.0, "good") if value.mean > 0 else Value("worse", -1.0, "bad")


def _paired(section: Section, over_rows: RowIntervals | None) -> ReportTable:
    reference, rows, p_values = section.full, [], []
    for cell in in_order(section):
        if reference is None or cell is reference:
            continue
        auc = cell.difference(reference)
        others = [_estimate_signed(cell.difference(reference, name)) for name in ("gauc", "logloss")]
        seeds = auc.n if auc else 0
        of_rows = None if over_rows is None else over_rows.difference(cell, reference)
        head = [*cell_head(cell), difference_value(auc), verdict(auc), *others, Value(str(seeds), seeds)]
        rows.append([*head, Value(fmt.number(of_rows), of_rows)])
        p_values.append(1.0 if auc is None or auc.p_value is None else auc.p_value)
    for row, stands in zip(rows, holm(p_values), strict=True):
        row.append(Value("yes" if stands else "no", float(stands)))
    return ReportTable(
        "paired",
        "Differences from the full table",
        "Paired: each run minus the full table's run of the same seed, then the mean and its 95 % t interval over "
        "seeds. “Within the noise”: the interval includes zero. Test rows ±: the 95 % interval of the difference over "
        "samples of test rows (DeLong), which further seeds do not make smaller. Intervals and verdicts are for one "
        f"comparison each; Holm: whether the difference stands when all {len(rows)} are tested together at 5 %.",
        columns_of(
            "Table", "Budget", "Bytes", "Share", "AUC", "Verdict", "GAUC", "Logloss", "Seeds", "Test rows ±", "Holm",
            text=("Table", "Budget", "Verdict", "Holm"),
        ),
        rows,
    )  # fmt: skip


def _estimate_signed(value: Estimate | None) -> Value:
    return Value(fmt.difference(value), None if value is None else value.mean)


def _leads(section: Section) -> ReportTable:
    """At each budget, the best method and its paired lead over the next."""
    budgets = dict.fromkeys(cell.budget for cell in section.cells if cell.budget is not None)
    rows = []
    for budget in budgets:
        ranked = sorted((c for c in section.cells if c.budget == budget), key=lambda c: -c.auc.mean)
        for better, next_best in pairwise(ranked):
            lead = better.difference(next_best)
            rank = Value(budget or "", better.any_row["budget_bytes"])
            head = [rank, method_value(better.method), method_value(next_best.method)]
            rows.append([*head, _estimate_signed(lead), verdict(lead)])
    return ReportTable(
        "leads",
        "Methods against each other",
        "At each budget, methods in the order of mean AUC, each with its lead over the next; paired by seed, with the "
        "95 % t interval.",
        columns_of("Budget", "Table", "Next", "Lead in AUC", "Verdict", text=("Table", "Budget", "Next", "Verdict")),
        rows,
    )


def _pareto(section: Section) -> ReportTable:
    rows = [[*cell_head(cell), estimate_value(cell.auc)] for cell in reversed(section.pareto)]
    return ReportTable(
        "pareto",
        "Pareto front",
        "Tables that no other measured table beats in mean AUC with as many or fewer bytes. Neighbours closer than "
        "their intervals may change places with other seeds.",
        columns_of("Table", "Budget", "Bytes", "Share", "AUC"),
        rows,
    )


def _within_training(section: Section, limits: Mapping[str, int]) -> ReportTable:
    rows = []
    for text, limit in limits.items():
        fitting = [c for c in section.cells if (t := c.estimate("training_bytes")) is not None and t.mean <= limit]
        for cell in sorted(fitting, key=lambda c: -c.auc.mean)[:1]:
            training = cell.estimate("training_bytes")
            head = [Value(text, limit), *cell_head(cell), size_value(training.mean if training else None)]
            rows.append([*head, estimate_value(cell.auc)])
    return ReportTable(
        "within-training",
        "Best table at each training budget",
        "The table of the highest mean AUC among those that need no more bytes to train: rows, gradients, optimizer "
        "state and the copy of the best weights, counted.",
        columns_of("Training budget", "Table", "Budget", "Bytes", "Share", "Training bytes", "AUC"),
        rows,
    )

"""All runs of a sweep as one table: a row per run, failures included, written as parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from rectab.atomic_file import write_atomic
from rectab.sweep.grid import DatasetInfo, RunSpec
from rectab.sweep.plan import SweepPlan
from rectab.tables.budget import parse_budget
from rectab.training.advice import advice

__all__ = ["RESULT_COLUMNS", "SLICES", "collect_results", "write_results"]

SLICES = ("head", "torso", "tail", "unseen")

RESULT_COLUMNS: dict[str, Any] = {
    "dataset": pl.String,
    "model": pl.String,
    "interaction": pl.String,
    "history": pl.String,
    "method": pl.String,
    "table": pl.String,
    "config": pl.String,  # JSON: what was built
    "options": pl.String,  # JSON: model options, method options, training settings
    "budget": pl.String,
    "budget_bytes": pl.Int64,
    "serving_bytes": pl.Int64,
    "training_bytes": pl.Int64,
    "dense_bytes": pl.Int64,
    "map_bytes": pl.Int64,  # of the map from raw values to ids; null in results of before it was counted
    "full_bytes": pl.Int64,
    "ratio": pl.Float64,
    "embedding_dim": pl.Int64,
    "seed": pl.Int64,
    "status": pl.String,
    "error": pl.String,
    "smallest_feasible_bytes": pl.Int64,
    "auc": pl.Float64,
    "gauc": pl.Float64,
    "logloss": pl.Float64,
    "calibration": pl.Float64,
    "recall": pl.Float64,  # of rankings: in the first list that is measured, and so is ndcg
    "ndcg": pl.Float64,
    "list_length": pl.Int64,
    **{f"auc_{name}": pl.Float64 for name in SLICES},
    **{f"rows_{name}": pl.Int64 for name in SLICES},
    "valid_auc": pl.Float64,
    "valid_logloss": pl.Float64,
    "encoded_dim": pl.Int64,
    "encoding_seconds": pl.Float64,
    "full_valid_auc": pl.Float64,
    "expected_valid_auc": pl.Float64,
    "advice": pl.String,  # what the course of the training says about its settings; null if nothing
    "train_seconds": pl.Float64,
    "wall_seconds": pl.Float64,
    "samples_per_second": pl.Float64,
    "samples": pl.Int64,
    "peak_memory_bytes": pl.Int64,
    "threads": pl.Int64,
    "device": pl.String,
    "precision": pl.String,
    "gradient": pl.String,
    "kernel": pl.String,
    "versions": pl.String,  # JSON
    "commit": pl.String,
    "started": pl.String,
    "hash": pl.String,
}
"""Columns of ``results.parquet``. ``model`` and ``method`` are the names of the report, ``interaction`` and ``table``
the registered ones. AUC, GAUC, logloss and calibration are of the test split. Of tables that were encoded after
training: the width that validation chose, the seconds of encoding, validation AUC of the full table, and what was
predicted of the encoded one (:attr:`rectab.training.result.RunResult.encoded`)."""


_RESULT_KEYS = (
    *("serving_bytes", "training_bytes", "dense_bytes", "map_bytes", "train_seconds", "samples", "samples_per_second"),
    *("peak_memory_bytes", "precision", "gradient", "kernel"),
)


def collect_results(plan: SweepPlan, specs: Sequence[RunSpec] | None = None) -> pl.DataFrame:
    """One row per run that is on disk, in the order of the sweep file.

    Args:
        plan: the sweep.
        specs: which runs; every reported one if None.
    """
    by_name = {info.name: info for info in plan.datasets}
    rows = []
    for spec in plan.runs() if specs is None else specs:
        record = plan.store.read_run(spec.hash)
        if record is not None:
            rows.append(_row(spec, record, by_name[spec.dataset]))
    return pl.DataFrame(rows, schema=RESULT_COLUMNS, orient="row")


def write_results(plan: SweepPlan) -> pl.DataFrame:
    """Write ``results.parquet`` (and, with tuning, ``trials.parquet``); returns the results."""
    results = collect_results(plan)
    _write_parquet(plan, "results.parquet", results)
    trials = plan.trial_specs()
    if trials:
        _write_parquet(plan, "trials.parquet", collect_results(plan, trials))
    return results


def _write_parquet(plan: SweepPlan, name: str, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_atomic(plan.store.folder / name, buffer.getvalue())


def _row(spec: RunSpec, record: dict[str, Any], dataset: DatasetInfo) -> dict[str, Any]:
    environment = record["environment"]
    full_bytes = dataset.full_bytes(spec.embedding_dim)
    row: dict[str, Any] = dict.fromkeys(RESULT_COLUMNS)
    row |= {
        "dataset": spec.dataset,
        "model": spec.model_label,
        "interaction": spec.model,
        "history": spec.history,
        "method": spec.method_label,
        "table": spec.method,
        "options": _json({"model": spec.model_options, "method": spec.method_options, "training": spec.training}),
        "budget": spec.budget,
        "full_bytes": full_bytes,
        "embedding_dim": spec.embedding_dim,
        "seed": spec.seed,
        "status": record["status"],
        "error": record["error"],
        "smallest_feasible_bytes": record["smallest_feasible_bytes"],
        "wall_seconds": record.get("wall_seconds"),
        "threads": environment["threads"],
        "versions": _json(environment["versions"]),
        "commit": environment["commit"],
        "started": record.get("started"),
        "hash": spec.hash,
    }
    if spec.budget is not None:
        row["budget_bytes"] = parse_budget(spec.budget, full_bytes)
    if _exceeds(record, spec.train_memory):
        needed = record["result"]["training_bytes"]
        row |= {"status": "infeasible", "error": f"training took {needed} bytes, the limit is {spec.train_memory}"}
    elif record["status"] == "ok":  # whatever a failed run still measured is not a result
        row |= _measured(record["result"])
        row["ratio"] = row["serving_bytes"] / full_bytes
    return row


def _exceeds(record: dict[str, Any], limit: int | None) -> bool:
    """Whether a finished run took more to train than there is now a limit for."""
    return record["status"] == "ok" and limit is not None and (record["result"].get("training_bytes") or 0) > limit


def _advice(result: dict[str, Any]) -> list[str]:
    return advice(result["stages"], result["train"]) if result.get("stages") and result.get("train") else []


def _measured(result: dict[str, Any]) -> dict[str, Any]:
    """The columns that a finished run's result fills."""
    test, valid = result["test"] or {}, result["valid"]
    row = {name: result.get(name) for name in _RESULT_KEYS}
    row |= {name: test.get(name) for name in ("auc", "gauc", "logloss", "calibration")}
    train = result.get("train") or {}
    if train.get("objective") == "topk":
        length = train["topk"][0]
        row |= {"recall": test.get(f"recall@{length}"), "ndcg": test.get(f"ndcg@{length}"), "list_length": length}
    for name in SLICES:
        part = result["slices"].get(name, {})
        row |= {f"auc_{name}": part.get("auc"), f"rows_{name}": part.get("rows")}
    row |= {
        "device": result.get("device", "cpu"),  # runs from before it was kept could use nothing else
        "valid_auc": valid.get("auc"),
        "valid_logloss": valid.get("logloss"),
        "config": _json(result["table"]["config"]),
        "advice": " ".join(_advice(result)) or None,
    }
    return row | _of_encoding(result.get("encoded"))


def _of_encoding(encoded: dict[str, Any] | None) -> dict[str, Any]:
    if encoded is None:
        return {}
    return {
        "encoded_dim": encoded["embedding_dim"],
        "encoding_seconds": sum(encoded["seconds"].values()),
        "full_valid_auc": encoded["full_valid"].get("auc"),
        "expected_valid_auc": encoded["expected"].get("auc"),
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)

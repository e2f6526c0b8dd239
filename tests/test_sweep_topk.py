"""A sweep of rankings: results and report hold recall and NDCG beside AUC within users."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
from data_helpers import prepared
from rich.console import Console

from rectab.sweep.report import write_report
from rectab.sweep.sweep import run_sweep

SWEEP = """
budgets = ["60%"]
seeds = [0]
embedding_dim = 4
datasets = [{ path = "PATH" }]
models = [{ model = "mf" }]
methods = [{ method = "full" }, { method = "hashed" }, { method = "quantized" }]
training = { objective = "topk", topk = [3, 5], batch_size = 16, max_epochs = 2, lr = 0.05, precision = "fp32" }
"""


def test_a_sweep_of_rankings(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(240)
    rows = [["1", f"u{pair // 12}", f"i{pair % 12}", str(place), "1", "2"] for place, pair in enumerate(order[:150])]
    data = prepared(tmp_path, rows, features=[{"name": "user"}, {"name": "item"}])
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("PATH", str(data.path)))
    out = tmp_path / "sweep"
    made = run_sweep(tmp_path / "sweep.toml", out, console=Console(file=io.StringIO()))
    assert not made.failed()
    results = pl.read_parquet(out / "results.parquet")
    assert results["status"].to_list() == ["ok"] * 3
    for row in results.iter_rows(named=True):
        record = json.loads((out / "runs" / f"{row['hash']}.json").read_text())["result"]
        assert row["ndcg"] == record["test"]["ndcg@3"]
        assert row["recall"] == record["test"]["recall@3"]
        assert row["auc"] == record["test"]["auc"]
        assert row["list_length"] == 3
    page = write_report(out).read_text()
    assert "Rankings: recall and NDCG at 3" in page
    assert "test NDCG@3" in page

"""Latency of a served model: batch 1, 64 and 4096, median and 99th percentile. Run by ``make bench``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from workloads import Workload, describe, model_batches, schema_of

from rectab.models import CTRModel, ModelConfig
from rectab.tables import plan


@pytest.mark.parametrize("batch_size", [1, 64, 4096])
@pytest.mark.parametrize("method", ["full", "unified"])
def test_dcnv2_latency(benchmark: Any, method: str, batch_size: int) -> None:
    workload = Workload(1_420_000, 16, batch_size=batch_size)
    schema = schema_of(workload)
    table = plan(method, schema.vocabularies, 16, None if method == "full" else "10%").build()
    model = CTRModel(schema, table.serving(), ModelConfig.from_options("dcnv2")).eval()
    batches = model_batches(workload, 16)
    rounds = {1: 1000, 64: 1000, 4096: 100}[batch_size]
    describe(benchmark, workload, method=method, precision="fp32", gradient="none")
    calls = iter(range(10**9))
    with torch.inference_mode():
        benchmark.pedantic(lambda: model(batches[next(calls) % 16]), rounds=rounds, warmup_rounds=10)
    times = benchmark.stats.stats.data if benchmark.stats else []
    if times:
        benchmark.extra_info["p99_ms"] = float(np.percentile(times, 99)) * 1e3
        benchmark.extra_info["median_ms"] = float(np.median(times)) * 1e3

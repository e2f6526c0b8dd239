"""Latency of a served model: batch 1, 64 and 4096, median and 99th percentile, for every form in which a table is
served. Run by ``make bench``; ``serving.py`` times the forms in turns."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from forms import FORMS, served
from workloads import Workload, describe, model_batches, schema_of

from rectab.models import CTRModel, ModelConfig
from rectab.tables import EmbeddingTable


@lru_cache(maxsize=1)
def table_of(form: str) -> EmbeddingTable:
    return served(form, Workload(1_420_000, 16, scattered=False))


@pytest.mark.parametrize("batch_size", [1, 64, 4096])
@pytest.mark.parametrize("form", FORMS)
def test_dcnv2_latency(benchmark: Any, form: str, batch_size: int) -> None:
    workload = Workload(1_420_000, 16, batch_size=batch_size, scattered=False)
    model = CTRModel(schema_of(workload), table_of(form), ModelConfig.from_options("dcnv2")).eval()
    batches = model_batches(workload, 16)
    rounds = {1: 1000, 64: 1000, 4096: 100}[batch_size]
    describe(benchmark, workload, method=form, precision="fp32", gradient="none")
    calls = iter(range(10**9))
    with torch.inference_mode():
        benchmark.pedantic(lambda: model(batches[next(calls) % 16]), rounds=rounds, warmup_rounds=10)
    times = benchmark.stats.stats.data if benchmark.stats else []
    if times:
        benchmark.extra_info["p99_ms"] = float(np.percentile(times, 99)) * 1e3
        benchmark.extra_info["median_ms"] = float(np.median(times)) * 1e3

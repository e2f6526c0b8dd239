"""The result of a run whose table was encoded after training, in the form that every run has."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rectab.tables.planning import Plan
from rectab.training.compress.encoder import Encoded
from rectab.training.compress.findings import bits_of_blocks
from rectab.training.compress.widths import Choice, Widths
from rectab.training.config import TrainConfig
from rectab.training.measuring import metrics_on_test
from rectab.training.precision import device_of, peak_memory_bytes
from rectab.training.result import RunResult, versions

__all__ = ["encoded_result"]


def encoded_result(
    choice: Choice, widths: Widths, planned: Plan, read_test: bool, begin: float, folder: Path | None = None
) -> RunResult:
    """Measure the chosen table and gather everything.

    Args:
        choice: of ``widths``.
        widths: the runs that were trained; the seconds and rows of their training are those of the result.
        planned: of the method ``quantized``, at the budget.
        read_test: measure on the test split.
        begin: when encoding began, by ``time.perf_counter``.
        folder: gets the scores of the test rows.
    """
    made, results = choice.encoded, [encoder.run.result for encoder in widths.encoders]
    run, dataset = made.run.result, made.run.dataset
    test_begin = time.perf_counter()
    config = TrainConfig.from_json(run.train)
    test, slices = metrics_on_test(made.model, dataset, config, folder) if read_test else (None, {})
    train_seconds, samples = sum(r.train_seconds for r in results), sum(r.samples for r in results)
    return RunResult(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        method=planned.method,
        table=planned.to_json(),
        model=run.model,
        train=run.train,
        valid=made.valid,
        test=test,
        slices=slices,
        budget_bytes=planned.budget_bytes,
        serving_bytes=made.serving_bytes,
        training_bytes=max(r.training_bytes for r in results),
        map_bytes=made.map_bytes,
        dense_bytes=sum(p.numel() * p.element_size() for p in made.model.dense_parameters()),
        train_seconds=train_seconds,
        evaluation_seconds=sum(r.evaluation_seconds for r in results),
        test_seconds=time.perf_counter() - test_begin,
        wall_seconds=time.perf_counter() - begin,
        samples=samples,
        samples_per_second=samples / train_seconds if train_seconds else 0.0,
        peak_memory_bytes=max(peak_memory_bytes(), *(r.peak_memory_bytes for r in results)),
        threads=torch.get_num_threads(),
        precision=run.precision,
        gradient=run.gradient,
        kernel=run.kernel,
        device=device_of(made.model),
        slice_by=dataset.schema.slice_by,
        versions=versions(),
        stages=[_named(stage, r, len(results) > 1) for r in results for stage in r.stages],
        history=run.history,
        learned=[finding.to_json() for finding in bits_of_blocks(made)],
        encoded=_encoded(choice, widths),
    )


def _named(stage: dict[str, Any], result: RunResult, several: bool) -> dict[str, Any]:
    """The record of a stage; of several widths it says which."""
    name = f"{stage['stage']}, width {result.table['embedding_dim']}" if several else stage["stage"]
    return stage | {"stage": name}


def _encoded(choice: Choice, widths: Widths) -> dict[str, Any]:
    """What is told of the encoding: see :attr:`rectab.training.result.RunResult.encoded`."""
    made = choice.encoded
    return {
        "trained_as": made.run.result.method,
        "embedding_dim": made.run.embedding_dim,
        "full_valid": widths.first.valid,
        "expected": made.expected,
        "widths": [
            asdict(attempt) | {"train_seconds": encoder.run.result.train_seconds, "full_valid": encoder.run.valid}
            for attempt, encoder in zip(choice.attempts, widths.encoders, strict=True)
        ],
        "seconds": _seconds(choice, widths),
        "blocks": _blocks(made),
    }


def _seconds(choice: Choice, widths: Widths) -> dict[str, float]:
    """By part, all widths together."""
    total: dict[str, float] = {}
    for seconds in [*(e.seconds for e in widths.encoders), *(a.seconds for a in choice.attempts)]:
        for part, value in seconds.items():
            total[part] = total.get(part, 0.0) + value
    return total


def _blocks(made: Encoded) -> list[list[Any]]:
    """(vocabulary, first id, ids, encoding, mean squared change of the output) of every block."""
    allocation, vocabularies = made.allocation, made.run.dataset.schema.vocabularies
    return [
        [vocabularies[block.vocabulary].name, block.first, len(block), encoding.name, float(error)]
        for block, encoding, error in zip(allocation.blocks, allocation.encodings, allocation.errors, strict=True)
    ]

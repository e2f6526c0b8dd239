"""Candidates timed in turns: a round runs every candidate once, so that a busy machine slows all of them alike."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "WARM_UP",
    "Candidate",
    "add_arguments",
    "copy_bandwidth",
    "header",
    "interleaved",
    "ratio_text",
    "report",
    "write_json",
]

WARM_UP = 2


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        name: whose it is and what it does.
        gradient: layout of the table's gradient (``row``, ``fused``, ``sparse``, ``dense``, ``none``).
        run: one step or lookup of one batch, as ``inputs`` gives it.
        inputs: its batches, in its own format; converting to it is not timed.
        precision: of the dense part.
        details: more for its row of the results.
    """

    name: str
    gradient: str
    run: Callable[[Any], object] = field(repr=False)
    inputs: Sequence[Any] = field(repr=False)
    precision: str = "fp32"
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread; for a machine that others use as well")


def header(arguments: argparse.Namespace) -> Callable[[], float]:
    """Print the circumstances; returns the clock."""
    if arguments.cpu_time:
        torch.set_num_threads(1)
    kind = "CPU time of one thread" if arguments.cpu_time else "wall time"
    print(f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    return time.process_time if arguments.cpu_time else time.perf_counter


def interleaved(candidates: Sequence[Candidate], rounds: int, clock: Callable[[], float]) -> np.ndarray:
    """Seconds [rounds, candidates] by ``clock``, after ``WARM_UP`` rounds that are not counted.

    The order is another in every round: what a candidate leaves in the caches is good or bad for its successor. Inputs
    come again when there are fewer than rounds.
    """
    seconds, generator = np.zeros((rounds, len(candidates))), np.random.default_rng(0)
    for index in range(-WARM_UP, rounds):
        for column in generator.permutation(len(candidates)):
            candidate = candidates[column]
            batch = candidate.inputs[index % len(candidate.inputs)]
            start = clock()
            candidate.run(batch)
            if index >= 0:
                seconds[index, column] = clock() - start
    return seconds


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy larger than the caches; the best of five."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    best = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.numel() * 4 / best


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def report(
    what: str, candidates: Sequence[Candidate], seconds: np.ndarray, references: Sequence[int] = (0,), **more: Any
) -> list[dict[str, Any]]:
    """Print and return a row per candidate: median, and the quartiles of its per-round ratio to each reference."""
    rows = []
    for column, candidate in enumerate(candidates):
        ratios = {}
        for reference in references:
            quartiles = np.percentile(seconds[:, column] / seconds[:, reference], [25, 50, 75])
            ratios[f"{candidates[reference].name} {candidates[reference].precision}"] = quartiles.tolist()
        described = {key: getattr(candidate, key) for key in ("name", "gradient", "precision")}
        median = float(np.median(seconds[:, column])) * 1e3
        circumstances = {"threads": torch.get_num_threads(), "rounds": len(seconds), **candidate.details}
        rows.append({"what": what, **more, **described, **circumstances, "median_ms": median, "ratios": ratios})
        texts = [f"x {ratio_text(spread)} of {name}" for name, spread in ratios.items()]
        print(f"{what:28s} {candidate.name:30s} {candidate.precision:5s} {candidate.gradient:7s}{median:10.3f} ms  ",
              "  ".join(texts), flush=True)  # fmt: skip
    return rows


def ratio_text(spread: Sequence[float]) -> str:
    """(low, middle, high) -> ``1.7 [1.6, 1.9]``."""
    low, middle, high = (f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in spread)
    return f"{middle} [{low}, {high}]"


def write_json(path: Path | None, rows: list[dict[str, Any]], **more: Any) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**more, "rows": rows}, indent=1))

"""Writes a run as one graph, ids in and probabilities out, checks it on real rows, and says beside it what it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rectab.atomic_file import atomic_file, write_atomic
from rectab.batch import Batch
from rectab.data.asked_rows import AskedRows
from rectab.data.dataset import Split
from rectab.extras import need_extra
from rectab.training.evaluation import predict
from rectab.training.exporting.scoring import InputSpec, Scoring, inputs_of
from rectab.training.exporting.tracing import TRACED, Graph, never_empty, to_pt2, traced
from rectab.training.served import ServedModel

__all__ = ["ExportFormat", "Exported", "described", "difference_on", "export_model", "is_rating", "rows_to_compare"]

ExportFormat = Literal["onnx", "pt2"]
_ROWS = 1000  # at most so many are compared


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the graph. sidecar: what it takes.
        format: ``onnx``, ``aotinductor`` (compiled; ``torch._inductor.aoti_load_package``) or ``torch.export``
            (``torch.export.load``).
        rows: real rows that were compared, at several batch sizes.
        difference: the largest one between probabilities (or ratings) of the graph and of the model; None where the
            graph could not be run here.
    """

    path: Path
    sidecar: Path
    format: str
    rows: int
    difference: float | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar)}

    def told(self) -> str:
        """In a line."""
        compared = f"largest difference from the model on {self.rows:,} rows: {self.difference}"
        if self.difference is None:
            compared = "not compared with the model: that needs pip install onnxruntime"
        return f"{self.path} ({self.format}) and {self.sidecar}; {compared}"


def export_model(served: ServedModel, to: ExportFormat, out: Path, asked: AskedRows) -> Exported:
    """Export a whole model; any batch size and history length.

    Args:
        served: the run.
        to: ``onnx``, or ``pt2``: compiled by AOTInductor where a C++ compiler is there, else as ``torch.export`` saves.
        out: the file; ``OUT.json`` beside it says inputs, shapes and vocabularies.
        asked: real rows to compare the graph with the model on.

    Raises:
        DataError: the rows cannot be read.
        ImportError: a package that the format needs is not installed.
        ValueError: the name of ``out`` does not end as the format does, or the model does what ONNX cannot say, as
            tables in packed bytes do.
    """
    if out.suffix != f".{to}":
        raise ValueError(f"--out {out}: the name of this format ends in .{to}")
    if to == "onnx":
        need_extra("rectab export --to onnx", "export", "onnx", "onnxscript")
    split = rows_to_compare(served, asked)
    scoring = Scoring(served.model, is_rating(served)).eval()
    program = _traced(scoring, split)
    with atomic_file(out) as draft:
        kind, graph = _to_onnx(program, scoring, draft, out) if to == "onnx" else to_pt2(program, draft)
        difference = None
        if graph is not None:
            difference = difference_on(split, served, lambda batch: graph(scoring.flat(batch)))
    sidecar = out.with_name(out.name + ".json")
    compared = {"rows": len(split), "largest_difference": difference}
    told = described(served, kind, inputs_of(served.model), compared)
    write_atomic(sidecar, json.dumps(told, indent=1) + "\n")
    return Exported(out, sidecar, kind, len(split), difference)


def _traced(scoring: Scoring, split: Split) -> torch.export.ExportedProgram:
    rows = np.resize(np.arange(len(split)), TRACED)  # rows repeat where there are few
    return traced(scoring, never_empty(scoring.names, scoring.flat(split.batch(rows))))


def _to_onnx(
    program: torch.export.ExportedProgram, scoring: Scoring, draft: Path, out: Path
) -> tuple[str, Graph | None]:
    try:
        made = torch.onnx.export(
            program, dynamo=True, input_names=scoring.names, output_names=["probability"], verbose=False
        )
    except torch.onnx.OnnxExporterError as error:
        method = scoring.model.table.method
        raise ValueError(
            f"{out}: torch cannot write this model as ONNX (its table is {method!r}: {_reason(error)}); export it with "
            "--to pt2"
        ) from error
    assert made is not None
    made.save(str(draft))
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        session = None
    else:
        session = InferenceSession(str(draft), providers=["CPUExecutionProvider"])
    weights = draft.with_name(draft.name + ".data")
    if weights.exists():  # beyond what one file of the format holds
        shutil.move(weights, out.with_name(weights.name))
    if session is None:
        return "onnx", None

    def graph(inputs: tuple[Tensor, ...]) -> np.ndarray:
        found = session.run(None, {name: x.numpy() for name, x in zip(scoring.names, inputs, strict=True)})
        return np.asarray(found[0])

    return "onnx", graph


def _reason(error: Exception) -> str:
    """What lies at the bottom of an error of the exporter, in one line."""
    inner: BaseException = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    return str(inner).strip().split("\n")[0]


def difference_on(rows: Split, served: ServedModel, score: Callable[[Batch], np.ndarray]) -> float:
    """The largest difference between ``score`` and the model over rows: one alone, a few, and the rest."""
    expected = predict(served.model, rows)
    if not is_rating(served):
        expected = 1.0 / (1.0 + np.exp(-expected.astype(np.float64)))
    borders = sorted({0, min(1, len(rows)), min(8, len(rows)), len(rows)})
    found = [score(rows.batch(slice(first, last))) for first, last in pairwise(borders)]
    return float(np.abs(np.concatenate(found) - expected).max())


def is_rating(served: ServedModel) -> bool:
    """Whether the model's outputs are ratings, not logits."""
    return served.config.objective == "mse"


def rows_to_compare(served: ServedModel, asked: AskedRows) -> Split:
    """The first of the rows that were asked for. Raises DataError if they cannot be read."""
    split = served.inputs.read(asked).split
    return split.restrict(np.arange(min(len(split), _ROWS)))


def described(served: ServedModel, kind: str, inputs: Sequence[InputSpec], compared: dict[str, Any]) -> dict[str, Any]:
    """What a sidecar says: the graph's inputs, output and vocabularies."""
    schema, rating = served.model.schema, is_rating(served)
    return {
        "format": kind,
        "inputs": [{key: value for key, value in asdict(spec).items() if value} for spec in inputs],
        "output": {
            "name": "rating" if rating else "probability",
            "dtype": "float32",
            "shape": ["batch"],
            "meaning": "the predicted rating" if rating else "of a click",
        },
        "max_history": served.model.config.max_history,
        "vocabularies": [
            {**v.to_json(), "ids": "xxh64 of the value" if v.hashed else "0 is unseen or rare"}
            for v in schema.vocabularies
        ],
        "compared": compared,
    }

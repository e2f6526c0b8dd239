"""Writes a run as one graph, ids in and probabilities out, checks it on real rows, and says beside it what it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rectab.atomic_file import atomic_file, write_atomic
from rectab.data.asked_rows import AskedRows
from rectab.data.dataset import Split
from rectab.extras import need_extra
from rectab.training.evaluation import predict
from rectab.training.exporting.scoring import Scoring, inputs_of
from rectab.training.served import ServedModel

__all__ = ["ExportFormat", "Exported", "export_model"]

ExportFormat = Literal["onnx", "pt2"]
_ROWS = 1000  # at most so many are compared
_TRACED = 8  # rows that the graph is traced with
_COMPILERS = ("g++", "clang++", "c++")

Graph = Callable[[tuple[Tensor, ...]], np.ndarray]


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
    split = served.inputs.read(asked).split
    split = split.restrict(np.arange(min(len(split), _ROWS)))
    scoring = Scoring(served.model, served.config.objective == "mse").eval()
    program = _traced(scoring, split)
    with atomic_file(out) as draft:
        kind, graph = _to_onnx(program, scoring, draft, out) if to == "onnx" else _to_pt2(program, draft)
        difference = None if graph is None else _difference(graph, served, scoring, split)
    sidecar = out.with_name(out.name + ".json")
    made = Exported(out, sidecar, kind, len(split), difference)
    write_atomic(sidecar, json.dumps(_described(served, made), indent=1) + "\n")
    return made


def _traced(scoring: Scoring, split: Split) -> torch.export.ExportedProgram:
    rows = np.resize(np.arange(len(split)), _TRACED)  # rows repeat where there are few
    inputs = _never_empty(scoring, scoring.flat(split.batch(rows)))
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)
    with torch.no_grad():
        return torch.export.export(scoring, inputs, dynamic_shapes=shapes, strict=False)


def _never_empty(scoring: Scoring, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with three events in every row: a graph that is traced without any would serve none."""
    made = dict(zip(scoring.names, inputs, strict=True))
    for behaviour, sequences in scoring.model.schema.behaviours.items():
        if f"{behaviour}_lengths" in made:
            made[f"{behaviour}_lengths"] = torch.full((_TRACED,), 3)
            made |= {f.name: torch.zeros(3 * _TRACED, dtype=torch.int64) for f in sequences}
    return tuple(made.values())


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


def _to_pt2(program: torch.export.ExportedProgram, draft: Path) -> tuple[str, Graph]:
    loaded: Any
    if any(shutil.which(name) for name in _COMPILERS):
        torch._inductor.aoti_compile_and_package(program, package_path=str(draft))
        kind, loaded = "aotinductor", torch._inductor.aoti_load_package(str(draft))
    else:
        torch.export.save(program, draft)
        kind, loaded = "torch.export", torch.export.load(draft).module()

    @torch.no_grad()
    def graph(inputs: tuple[Tensor, ...]) -> np.ndarray:
        return np.asarray(loaded(*inputs).detach().numpy())

    return kind, graph


def _difference(graph: Graph, served: ServedModel, scoring: Scoring, split: Split) -> float:
    """The largest difference over the rows: one alone, a few, and the rest."""
    expected = predict(served.model, split)
    if not scoring.rating:
        expected = 1.0 / (1.0 + np.exp(-expected.astype(np.float64)))
    borders = sorted({0, min(1, len(split)), min(8, len(split)), len(split)})
    found = [graph(scoring.flat(split.batch(slice(first, last)))) for first, last in pairwise(borders)]
    return float(np.abs(np.concatenate(found) - expected).max())


def _described(served: ServedModel, made: Exported) -> dict[str, Any]:
    schema = served.model.schema
    rating = served.config.objective == "mse"
    return {
        "format": made.format,
        "inputs": [{key: value for key, value in asdict(s).items() if value} for s in inputs_of(served.model)],
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
        "compared": {"rows": made.rows, "largest_difference": made.difference},
    }

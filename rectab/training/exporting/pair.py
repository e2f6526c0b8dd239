"""Writes a run as a host's tables and the graph of all else, and checks the pair on real rows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rectab.atomic_file import write_atomic
from rectab.batch import Batch
from rectab.data.asked_rows import AskedRows
from rectab.data.storage import atomic_folder
from rectab.schema import Schema
from rectab.tables.budget import format_bytes
from rectab.training.exporting.export import described, difference_on, is_rating, rows_to_compare
from rectab.training.exporting.given import DensePart
from rectab.training.exporting.host_tables import HostPrecision, HostTable, host_tables, precision_of
from rectab.training.exporting.tracing import TRACED, never_empty, to_pt2, traced
from rectab.training.served import ServedModel

__all__ = ["DENSE_FILE", "Host", "Pair", "export_pair"]

Host = Literal["torchrec", "fbgemm"]

DENSE_FILE = "dense.pt2"
SIDECAR = "export.json"
TABLES: dict[str, str] = {"torchrec": "tables.pt", "fbgemm": "tables.safetensors"}
"""The file of a host's tables."""


@dataclass(frozen=True)
class Pair:
    """What was written.

    Attributes:
        folder: holds the host's tables, ``dense.pt2`` and ``export.json``, which says what they take.
        host: whose tables.
        precision: of their rows.
        table_bytes: of the run's table, counted.
        host_bytes: of the host's tables.
        error: of the host's vectors, relative to the size of the run's (root mean square).
        rows: real rows that were compared, at several batch sizes.
        difference: the largest one between probabilities (or ratings) of the pair and of the model.
    """

    folder: Path
    host: Host
    precision: HostPrecision
    table_bytes: int
    host_bytes: int
    error: float
    rows: int
    difference: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}

    def told(self) -> str:
        """In a line."""
        return (
            f"{self.folder} ({self.host}, rows in {self.precision}): {format_bytes(self.host_bytes)} of tables, "
            f"{format_bytes(self.table_bytes)} in the run; vectors differ by {self.error:.2g} of their size; largest "
            f"difference from the model on {self.rows:,} rows: {self.difference:.2g}"
        )


def export_pair(
    served: ServedModel, to: Host, out: Path, asked: AskedRows, precision: HostPrecision | None = None
) -> Pair:
    """Export a run as a host's tables and a graph that takes their vectors.

    Args:
        served: the run.
        to: ``torchrec``: the state of a (quantised) ``EmbeddingCollection``; ``fbgemm``: the weights of an
            ``IntNBitTableBatchedEmbeddingBagsCodegen``.
        out: the folder; it must be empty or not exist.
        asked: real rows to compare the pair with the model on.
        precision: of the rows; None: the nearest to the run's table.

    Raises:
        DataError: the rows cannot be read.
        FileExistsError: ``out`` is not empty.
        ValueError: no rows hold the table's vectors (see :func:`host_tables`).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists already; give another --out, or delete it")
    table = served.model.table
    tables = host_tables(table, precision or precision_of(table))
    split = rows_to_compare(served, asked)
    dense = DensePart(served.model, is_rating(served)).eval()
    example = _inputs(dense, tables, served.model.schema, split.batch(np.resize(np.arange(len(split)), TRACED)))
    program = traced(dense, never_empty(dense.names, example))
    with atomic_folder(out) as draft:
        kind, graph = to_pt2(program, draft / DENSE_FILE)
        _write_tables(to, tables, draft)
        difference = difference_on(
            split, served, lambda batch: graph(_inputs(dense, tables, served.model.schema, batch))
        )
        size = sum(held.squared_size for held in tables)
        made = Pair(
            folder=out,
            host=to,
            precision=tables[0].precision,
            table_bytes=table.ledger().bytes,
            host_bytes=sum(held.bytes for held in tables),
            error=math.sqrt(sum(held.squared_error for held in tables) / size) if size else 0.0,
            rows=len(split),
            difference=difference,
        )
        told = described(served, kind, dense.specs, {"rows": made.rows, "largest_difference": difference})
        told |= {"host": to, "tables": [_table_told(held) for held in tables]}
        write_atomic(draft / SIDECAR, json.dumps(told, indent=1) + "\n")
    return made


def _inputs(dense: DensePart, tables: list[HostTable], schema: Schema, batch: Batch) -> tuple[Tensor, ...]:
    """The graph's inputs for a batch, vectors as the host decodes them."""
    held = {table.vocabulary.name: table for table in tables}
    columns = [held[f.vocabulary].vectors(batch.ids[:, i]) for i, f in enumerate(schema.categorical)]
    sequences = {
        f.name: held[f.vocabulary].vectors(batch.histories[f.name].values)
        for features in schema.behaviours.values()
        for f in features
        if f.name in dense.names
    }
    return dense.flat(batch, torch.stack(columns, 1), sequences)


def _write_tables(to: Host, tables: list[HostTable], folder: Path) -> None:
    path = folder / TABLES[to]
    if to == "fbgemm":
        save_file({f"{t.vocabulary.name}.{name}": tensor for t in tables for name, tensor in t.fbgemm().items()}, path)
        return
    prefix = "embeddings"  # of the module of this name within an EmbeddingCollection
    torch.save(
        {f"{prefix}.{t.vocabulary.name}.{name}": tensor for t in tables for name, tensor in t.torchrec().items()}, path
    )


def _table_told(held: HostTable) -> dict[str, Any]:
    return {
        "name": held.vocabulary.name,
        "num_embeddings": held.vocabulary.num_embeddings,
        "embedding_dim": held.embedding_dim,
        "precision": held.precision,
        "bytes": held.bytes,
        "relative_error": held.error,
    }

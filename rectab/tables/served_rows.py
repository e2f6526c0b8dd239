"""A table whose rows are floats until training ends, as it is served: its rows in codes with shared steps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rectab.ops import CodesFormat, RowStore, served_format
from rectab.ops.grids import Grid
from rectab.ops.steps import HeldSteps, LearnedSteps
from rectab.quantize.steps import fit_steps

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable

__all__ = ["with_rows", "with_rows_served"]

_SMALLEST_WEIGHT = 1e-3
"""Of a row that no known id reads in training: it is still encoded, and hardly felt."""

_SMALLEST_STEP = 2.0**-24
_AT_A_TIME = 1 << 16


def with_rows_served(table: EmbeddingTable) -> EmbeddingTable:
    """A table of the same method and config whose rows are in what the format of ``table`` is served in."""
    return with_rows(table, served_format(table.options.rows).name)


@torch.no_grad()
def with_rows(table: EmbeddingTable, rows: str) -> EmbeddingTable:
    """The same vectors as near as rows of another format can hold them.

    Steps that were learned are kept. Others are those of the least squared error of their group, in which a row weighs
    as often as training reads it, if the vocabularies have counts.

    Args:
        table: whose rows are floats.
        rows: name of the format.
    """
    build: Any = type(table)
    options = replace(table.options, rows=rows, device=table.device)
    made: EmbeddingTable = build(table.vocabularies, table.embedding_dim, table.config, options)
    made.train(table.training)
    if table.device.type == "meta":
        return made
    stores = {name: module for name, module in table.named_modules() if isinstance(module, RowStore)}
    inside = tuple(f"{name}." for name in stores)
    rest = {key: tensor for key, tensor in table.state_dict().items() if not key.startswith(inside)}
    made.load_state_dict(rest, strict=False)
    read = _reads(table) if isinstance(served_format(rows), CodesFormat) else {}
    for name, store in stores.items():
        target = made.get_submodule(name)
        assert isinstance(target, RowStore)
        _encode(store, target, read.get(name))
    return made


def _encode(store: RowStore, target: RowStore, read: Tensor | None) -> None:
    if isinstance(target.steps, HeldSteps) and isinstance(target.format, CodesFormat):
        if isinstance(store.steps, LearnedSteps):
            target.steps.step.copy_(store.steps.step)
        else:
            target.steps.step.copy_(_fitted(store, target.format.grid, target.steps.sizes, read))
    for first in range(0, store.num_rows, _AT_A_TIME):
        part = slice(first, min(first + _AT_A_TIME, store.num_rows))
        target.write(part, store.read(part))


def _fitted(store: RowStore, grid: Grid, sizes: tuple[int, ...], read: Tensor | None) -> Tensor:
    """fp32 [G]."""
    steps, ends = [], np.cumsum([0, *sizes])
    for first, last in pairwise(ends.tolist()):
        vectors = store.read(slice(first, last)).float().cpu().numpy()
        weights = np.ones(last - first) if read is None else read[first:last].cpu().numpy()
        weights = np.maximum(weights, _SMALLEST_WEIGHT).astype(np.float32)
        steps.append(float(fit_steps(grid, vectors, weights, "block", 0)[0, 0]))
    return torch.tensor(steps).clamp(min=_SMALLEST_STEP)


def _reads(table: EmbeddingTable) -> dict[str, Tensor]:
    """By store, int64 [num_rows]: how often training reads every row; empty if that is not known, as of rows that ids
    share in other ways than by ranges, or come to as they go."""
    from rectab.tables.row_counts import row_counts

    counts = {v.name: v.counts for v in table.vocabularies}
    known = {name: np.asarray(held) for name, held in counts.items() if held is not None}
    return row_counts(table, known) if len(known) == len(counts) and table.addresses() else {}

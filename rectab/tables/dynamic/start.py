"""A dynamic table that starts from trained vectors: the ids that occur most get rows, all others share means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.ops.slots import EMPTY, find_rows, shared_rows, take_rows
from rectab.tables.fit import FitTarget

if TYPE_CHECKING:
    from rectab.tables.dynamic.table import DynamicTable

__all__ = ["start_from_targets"]

_AT_A_TIME = 1 << 16


@torch.no_grad()
def start_from_targets(table: DynamicTable, targets: Sequence[FitTarget]) -> None:
    """Forget who had rows, give them to the ids of ``targets`` by their counts, and set values; the clock stays."""
    kept = table.tally.clone()
    table.identities.fill_(EMPTY)
    rule = replace(table.rule, admit="always", evict="never")
    dtype = torch.float64 if any(target.dtype == torch.float64 for target in targets) else torch.float32
    mass = torch.zeros(table.store.num_rows, dtype=dtype, device=table.store.device)
    mean = mass.new_zeros(table.store.num_rows, table.width)
    for target in targets:
        column = torch.tensor(target.vocabulary, device=table.store.device)
        for ids, weights in _heaviest_first(target):
            keys = table.keys(ids, column)
            rows = take_rows(keys, column, table.blocks, table.state, rule).rows
            if table.config.pool:
                table.own(rows, keys, column.expand(rows.shape))
            if table.count.numel():
                unit = 256 if table.config.half_life else 1
                table.count[rows] = (weights * unit).clamp(max=2**31 - 128).to(torch.int32)
    for target in targets:
        column = torch.tensor(target.vocabulary, device=table.store.device)
        for ids, vectors, weights in target.blocks():
            rows = _rows_of(table, ids, column)
            mass.index_add_(0, rows, weights.to(dtype))
            mean.index_add_(0, rows, vectors[:, : table.width].to(dtype) * weights.to(dtype).unsqueeze(1))
    read = (mass > 0).nonzero().squeeze(1)
    table.store.write(read, mean[read] / mass[read].unsqueeze(1))
    table.tally.copy_(kept)


def _heaviest_first(target: FitTarget) -> list[tuple[Tensor, Tensor]]:
    """(ids, weights), a part at a time."""
    ids, weights = (torch.cat(parts) for parts in zip(*((i, w) for i, _, w in target.blocks()), strict=True))
    order = torch.argsort(weights, descending=True, stable=True)
    return list(zip(ids[order].split(_AT_A_TIME), weights[order].split(_AT_A_TIME), strict=True))


def _rows_of(table: DynamicTable, ids: Tensor, column: Tensor) -> Tensor:
    """The row that each id reads; where it reads none (``absent = "zero"``), one that it would share."""
    keys = table.keys(ids, column)
    rows = find_rows(keys, column, table.blocks, table.identities, table.config.max_probe, shared=False)
    return torch.where(rows < 0, shared_rows(keys, column, table.blocks), rows)

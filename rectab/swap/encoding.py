"""Packed tables of a host's trained ones, within one budget: ids sorted by traffic, cut into blocks, encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rectab.quantize.allocate import Allocation, allocate, smallest_bytes
from rectab.quantize.blocks import Block, finest_blocks
from rectab.quantize.options import OptionTable
from rectab.quantize.traffic import expected_lookups
from rectab.schema import Vocabulary
from rectab.swap.find import FoundTable
from rectab.swap.measuring import Measured
from rectab.swap.sorted_rows import SortedRows
from rectab.tables import TableOptions, build_table
from rectab.tables.family import InfeasibleBudget
from rectab.tables.quantized import FIXED_BYTES, HEADER_BYTES, RankedConfig, RankedTable
from rectab.tables.quantized.partition import partition_bytes

__all__ = ["build_ranked", "encoded", "read_counts", "traffic"]

_FACTORS = (4.0, 16.0, 64.0)  # of traffic within a block: fewer blocks make a smaller partition
_ROUNDS = 3  # of an allocation whose blocks were joined, and the smaller partition that follows
_PADDING = 1e-3  # lookups of the padding row: it gives zeros, whatever is held
_UNSEEN = 0.5  # lookups of an id that no batch had


def read_counts(found: Sequence[FoundTable], counts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """int64 [num_embeddings] by a table's first name; counts given under several of its names add up.

    Raises:
        ValueError: a name that no table has, or counts of another shape or type.
    """
    names = {name: table for table in found for name in table.names}
    unknown = sorted(set(counts) - set(names))
    if unknown:
        raise ValueError(f"counts for {unknown}, but the tables are {sorted(names)}")
    given: dict[str, np.ndarray] = {}
    for name, values in counts.items():
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        size = names[name].module.num_embeddings
        if array.shape != (size,):
            raise ValueError(f"counts of {name!r} have shape {array.shape}, expected ({size},)")
        if not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
            raise ValueError(f"counts of {name!r} must be integers of at least 0, got {array.dtype}")
        if not array.any():
            raise ValueError(f"counts of {name!r} are all 0; leave them out if they are not known")
        given[names[name].name] = given.get(names[name].name, 0) + array.astype(np.int64)
    return given


def traffic(
    found: Sequence[FoundTable], given: Mapping[str, np.ndarray], measured: Measured | None
) -> list[np.ndarray]:
    """float64 [num_embeddings] each: expected lookups of an id in a row; none is 0."""
    weights = []
    usual = float(np.median([counts.sum() for counts in given.values()])) if given else 1.0
    for index, table in enumerate(found):
        size = table.module.num_embeddings
        seen = np.zeros(size) if measured is None else measured.counts[index]
        held = expected_lookups(given[table.name]) if table.name in given else seen + _UNSEEN
        if measured is not None:
            a_row = max(float(seen.sum()), 1.0) / measured.rows
        else:
            a_row = given[table.name].sum() / usual if table.name in given else 1.0
        if table.module.padding_idx is not None and size > 1:
            held[table.module.padding_idx] = _PADDING
        weights.append(held / held.sum() * a_row)
    return weights


def encoded(
    found: Sequence[FoundTable], weights: Sequence[np.ndarray], measured: Measured | None, limit: int, seed: int
) -> list[RankedTable]:
    """A packed table for every one found, of the least error that fits ``limit`` bytes.

    Raises:
        InfeasibleBudget: with the smallest budget that is feasible.
    """
    metric = None if measured is None else measured.sensitivity
    sorted_already = [_falls(w) for w in weights]
    orders = [
        np.arange(len(w)) if known else np.argsort(-w, kind="stable")
        for w, known in zip(weights, sorted_already, strict=True)
    ]
    options = _options(found, weights, metric, orders, seed)
    allocation = _allocate(options, sorted_already, limit - FIXED_BYTES * len(found))
    parts = [[b for b in allocation.blocks if b.vocabulary == index] for index in range(len(found))]
    orders = [_by_block(order, blocks) for order, blocks in zip(orders, parts, strict=True)]
    options = _options(found, weights, metric, orders, seed)
    return [_table_of(f, orders[i], parts[i], options, allocation, sorted_already[i]) for i, f in enumerate(found)]


def _falls(weights: np.ndarray) -> bool:
    """Whether ids, but perhaps the first, are in order of traffic: blocks are then ranges of ids."""
    return bool((np.diff(weights[1:]) <= 0).all())


def _options(
    found: Sequence[FoundTable],
    weights: Sequence[np.ndarray],
    metric: Sequence[np.ndarray] | None,
    orders: Sequence[np.ndarray],
    seed: int,
) -> OptionTable:
    """Of the ids in the given orders."""
    vectors: Any = [SortedRows(f.weight, order) for f, order in zip(found, orders, strict=True)]
    sorted_weights = [w[order] for w, order in zip(weights, orders, strict=True)]
    return OptionTable(vectors, sorted_weights, metric, HEADER_BYTES, seed, allow_rare=False)


def _by_block(order: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
    """Ids by block and, within each, rising; as they are if there is one block."""
    return np.concatenate([np.sort(order[block.first : block.last]) for block in blocks])


def _partitions(layout: Sequence[Sequence[Block]], sorted_already: Sequence[bool]) -> int:
    """Bytes of all partitions of a layout."""
    return sum(
        0 if known else partition_bytes([len(block) for block in blocks])
        for blocks, known in zip(layout, sorted_already, strict=True)
    )


def _allocate(table: OptionTable, sorted_already: Sequence[bool], limit: int) -> Allocation:
    """The allocation of least error among layouts of fewer and fewer blocks, partitions within ``limit``."""
    wholes = [[Block(i, 0, len(w))] for i, w in enumerate(table.weights)]
    layouts = [[finest_blocks(i, w, factor) for i, w in enumerate(table.weights)] for factor in _FACTORS]
    best: Allocation | None = None
    for layout in [*layouts, wholes]:
        for _ in range(_ROUNDS):
            found = allocate(table, layout, limit - _partitions(layout, sorted_already))
            if found is None:
                break
            if best is None or found.error < best.error:
                best = found
            joined = [[b for b in found.blocks if b.vocabulary == i] for i in range(len(wholes))]
            if joined == layout:
                break
            layout = joined
    if best is None:
        fixed = FIXED_BYTES * len(wholes)
        raise InfeasibleBudget(
            "compress_", limit + fixed, smallest_bytes(table, wholes) + fixed, "a shared vector for every table"
        )
    return best


def _table_of(
    found: FoundTable,
    order: np.ndarray,
    blocks: Sequence[Block],
    options: OptionTable,
    whole: Allocation,
    in_order: bool,
) -> RankedTable:
    held = dict(zip(whole.blocks, whole.encodings, strict=True))
    firsts, names = tuple(b.first for b in blocks), tuple(held[b].name for b in blocks)
    made = build_ranked(found, firsts, names, in_order, "cpu")
    made.packed.fill(options.fit(block, held[block]) for block in blocks)
    if made.partition is not None:
        block_of = np.empty(len(order), np.int32)
        block_of[order] = np.repeat(np.arange(len(blocks), dtype=np.int32), [len(b) for b in blocks])
        made.partition.fill(block_of)
    return made.to(found.weight.device)


def build_ranked(
    found: FoundTable,
    firsts: tuple[int, ...],
    encodings: tuple[str, ...],
    in_order: bool,
    device: torch.device | str,
) -> RankedTable:
    """The packed table of these blocks in the place of ``found``, its payload zeros."""
    dtype = str(found.weight.dtype).removeprefix("torch.")
    config = RankedConfig((0,) * len(firsts), firsts, encodings, dtype, in_order)
    vocabulary = Vocabulary(found.name, found.module.num_embeddings)
    options = TableOptions(unseen="error", device=device)
    made = build_table("quantized.ranked", [vocabulary], found.module.embedding_dim, config, options)
    assert isinstance(made, RankedTable)
    return made

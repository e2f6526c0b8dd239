"""``compress_``: the trained embedding tables of a plain torch model in packed bytes, with no further training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from rectab.quantize.allocate import Allocation, allocate, smallest_bytes
from rectab.quantize.blocks import Block, finest_blocks
from rectab.quantize.options import OptionTable
from rectab.schema import Vocabulary
from rectab.swap.find import FoundTable, Selector, find_tables
from rectab.swap.measuring import Measured, loss_by_logits, measure, taken_rows
from rectab.swap.references import ModuleChange, Replacement
from rectab.swap.views import SwappedBag, SwappedEmbedding, SwappedView
from rectab.tables import EmbeddingTable
from rectab.tables.budget import parse_budget
from rectab.tables.family import InfeasibleBudget
from rectab.tables.quantized import FIXED_BYTES, HEADER_BYTES, encode_table
from rectab.tables.quantized.ranked import Partition, RankedTable, partition_bytes

__all__ = ["CompressResult", "compress_"]

_FACTORS = (4.0, 16.0, 64.0)  # of traffic within a block: fewer blocks make a smaller partition


@dataclass
class CompressResult:
    """A compressed model.

    Attributes:
        model: the model that was changed.
        tables: the packed table of every weight, by its first dotted path.
        bytes: of all of them: payloads, headers and partitions.
        bytes_before: of the weights they replace.
        loss_predicted: AUC that it costs if the model's own probabilities are right; None without batches, or if the
            model does not give one logit a row.
    """

    model: nn.Module
    tables: dict[str, RankedTable]
    bytes: int
    bytes_before: int
    loss_predicted: float | None
    _modules: ModuleChange | None = field(repr=False)

    def undo(self) -> None:
        """Put the model's own tables back. Raises RuntimeError if it was undone already."""
        if self._modules is None:
            raise RuntimeError("the original tables are back already; nothing to undo")
        self._modules.undo()
        self._modules = None

    def __str__(self) -> str:
        loss = "not predicted" if self.loss_predicted is None else f"{self.loss_predicted:.4f} predicted"
        return (
            f"compressed: {len(self.tables)} tables, {self.bytes_before} -> {self.bytes} bytes "
            f"({self.bytes / self.bytes_before:.1%}), AUC lost: {loss}"
        )


def compress_(
    model: nn.Module,
    budget: str | int,
    *,
    counts: Mapping[str, Any] | None = None,
    batches: Iterable[Any] | None = None,
    include: Selector = None,
    exclude: Selector = None,
    seed: int = 0,
    verbose: bool = True,
) -> CompressResult:
    """Replace the trained tables of a plain torch model, in place, by packed ones within ``budget``; to be served.

    Args:
        model: with ``nn.Embedding`` or ``nn.EmbeddingBag`` modules.
        budget: bytes of all packed tables, partitions included: ``"10%"`` of those replaced, ``"4MiB"``, a number.
        counts: by dotted name, int64 [num_embeddings]: how often each id occurs in training.
        batches: arguments of the model for some training rows, each a tensor, a tuple of positional or a dict of
            keyword arguments; at most 20,000 rows are read. Gradients are measured on them, and counts if not given.
        include, exclude: as for :func:`rectab.swap_`.
        seed: of the fits.
        verbose: print what was done.

    Raises:
        ValueError: tables that cannot be compressed, counts or batches that do not fit the model.
        InfeasibleBudget: with the smallest budget that is feasible.
    """
    found, _ = find_tables(model, include, exclude)
    _check_devices(found)
    given = _read_counts(found, counts or {})
    before = sum(table.bytes for table in found)
    limit = parse_budget(budget if isinstance(budget, int) else str(budget), before)
    rows = None if batches is None else taken_rows(batches)
    measured = None if rows is None else measure(model, found, rows)
    if measured is None:
        warnings.warn(
            "compress_: without batches no gradients are measured"
            + ("" if given else ", and without counts all ids weigh alike")
            + "; the same bytes then cost more AUC, and no loss is predicted",
            stacklevel=2,
        )
    tables = _encoded(found, _weights(found, given, measured), measured, limit, seed)
    modules = _replaced(model, found, tables)
    modules.apply()
    held = sum(table.ledger().bytes for table in tables)
    named = {f.name: table for f, table in zip(found, tables, strict=True)}
    result = CompressResult(model, named, held, before, None, modules)
    if measured is not None and rows is not None:
        try:
            result.loss_predicted = loss_by_logits(model, rows, measured.outputs)
        except BaseException:
            result.undo()  # nobody else could
            raise
    if verbose:
        print(result)
    return result


def _check_devices(found: Sequence[FoundTable]) -> None:
    meta = [f.name for f in found if f.weight.device.type == "meta"]
    if meta:
        raise ValueError(f"tables {meta} are on the meta device and have no weights to compress; load them first")


def _read_counts(found: Sequence[FoundTable], counts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    names = {name: table for table in found for name in table.names}
    unknown = sorted(set(counts) - set(names))
    if unknown:
        raise ValueError(f"counts for {unknown}, but the tables are {sorted(names)}")
    given: dict[str, np.ndarray] = {}
    for name, values in counts.items():
        array, table = np.asarray(values), names[name]
        if array.shape != (table.module.num_embeddings,):
            raise ValueError(f"counts of {name!r} have shape {array.shape}, expected ({table.module.num_embeddings},)")
        if not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
            raise ValueError(f"counts of {name!r} must be integers of at least 0")
        given[table.name] = given.get(table.name, 0) + array.astype(np.float64)
    return given


def _weights(
    found: Sequence[FoundTable], given: Mapping[str, np.ndarray], measured: Measured | None
) -> list[np.ndarray]:
    """float64 [num_embeddings] each: lookups of an id in a row; none is 0, half a lookup is added."""
    weights = []
    for index, table in enumerate(found):
        size = table.module.num_embeddings
        seen = np.zeros(size) if measured is None else measured.counts[index]
        held = given.get(table.name, seen) + 0.5
        a_row = 1.0 if measured is None else measured.counts[index].sum() / measured.rows
        if table.module.padding_idx is not None:
            held[table.module.padding_idx] = 1e-3
        weights.append(held / held.sum() * max(a_row, 1e-6))
    return weights


def _encoded(
    found: Sequence[FoundTable], weights: list[np.ndarray], measured: Measured | None, limit: int, seed: int
) -> list[RankedTable]:
    vectors = [f.weight.detach().float().cpu().numpy() for f in found]
    orders = [np.argsort(-w, kind="stable") for w in weights]
    metric: Any = None if measured is None else measured.sensitivity

    def options(order: Sequence[np.ndarray]) -> OptionTable:
        sorted_vectors = [v[o] for v, o in zip(vectors, order, strict=True)]
        sorted_weights = [w[o] for w, o in zip(weights, order, strict=True)]
        return OptionTable(sorted_vectors, sorted_weights, metric, HEADER_BYTES, seed, allow_rare=False)

    table = options(orders)
    allocation = _allocate(table, limit - FIXED_BYTES * len(found))
    parts = [[b for b in allocation.blocks if b.vocabulary == index] for index in range(len(found))]
    orders = [_by_block(order, blocks) for order, blocks in zip(orders, parts, strict=True)]
    table = options(orders)
    return [_table_of(f, i, orders[i], parts[i], table, allocation) for i, f in enumerate(found)]


def _by_block(order: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
    """Ids by block and, within each, rising; as they are if there is one block."""
    return np.concatenate([np.sort(order[block.first : block.last]) for block in blocks])


def _partitions(blocks: Sequence[Block]) -> int:
    lengths: dict[int, list[int]] = {}
    for block in blocks:
        lengths.setdefault(block.vocabulary, []).append(len(block))
    return sum(partition_bytes(sum(sizes), len(sizes)) for sizes in lengths.values())


def _allocate(table: OptionTable, limit: int) -> Allocation:
    """The allocation of least error among layouts of fewer and fewer blocks, partitions within ``limit``."""
    wholes = [[Block(i, 0, len(w))] for i, w in enumerate(table.weights)]
    layouts = [[finest_blocks(i, w, factor) for i, w in enumerate(table.weights)] for factor in _FACTORS]
    best: Allocation | None = None
    for layout in [*layouts, wholes]:
        for _ in range(3):
            aside = _partitions([block for parts in layout for block in parts])
            found = allocate(table, layout, limit - aside)
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
    found: FoundTable, index: int, order: np.ndarray, blocks: Sequence[Block], table: OptionTable, whole: Allocation
) -> RankedTable:
    own = [at for at, block in enumerate(whole.blocks) if block.vocabulary == index]
    encodings = tuple(whole.encodings[at] for at in own)
    at_zero = OptionTable([table.vectors[index]], [table.weights[index]], None, HEADER_BYTES, table.seed)
    at_zero.metrics = [table.metrics[index]]
    allocation = Allocation(tuple(Block(0, b.first, b.last) for b in blocks), encodings, whole.errors[own], 0)
    vocabulary = Vocabulary(found.name, found.module.num_embeddings)
    packed = encode_table([vocabulary], found.module.embedding_dim, at_zero, allocation)
    partition = None
    if len(blocks) > 1:
        block_of = np.empty(len(order), np.int64)
        block_of[order] = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
        partition = Partition(torch.from_numpy(block_of), len(blocks))
    made = RankedTable(vocabulary, packed, partition, found.weight.dtype)
    return made.to(found.weight.device)


def _nothing(table: EmbeddingTable) -> None:
    raise RuntimeError("a compressed table has no initial values; undo the compression first")


def _view(table: EmbeddingTable, module: nn.Embedding | nn.EmbeddingBag) -> SwappedView:
    if isinstance(module, nn.EmbeddingBag):
        mode: Literal["sum", "mean"] = "sum" if module.mode == "sum" else "mean"
        bag = SwappedBag(table, 0, module.padding_idx, None, _nothing, mode, module.include_last_offset)
        return bag.train(module.training)
    return SwappedEmbedding(table, 0, module.padding_idx, None, _nothing).train(module.training)


def _replaced(model: nn.Module, found: Sequence[FoundTable], tables: Sequence[RankedTable]) -> ModuleChange:
    new: dict[nn.Module, nn.Module] = {}
    for f, table in zip(found, tables, strict=True):
        for place in f.places:
            if place.module not in new:
                new[place.module] = _view(table, place.module)
    places = [(place.parent, place.key, place.module) for f in found for place in f.places]
    return ModuleChange.of(model, places, Replacement(new, {f.weight: [] for f in found}))

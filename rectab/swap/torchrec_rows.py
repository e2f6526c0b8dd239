"""Row optimizers of rectab on rows that torchrec has sharded: each process steps the shards that it holds.

torchrec lays out the shards and carries ids and vectors between processes; a shard's rows stay where it put them, so
that its checkpoints find them. What is replaced is the lookup in a shard: row gradients come to a row store over the
same memory, in place of FBGEMM's fused update. So L2 by replay, and every rule of :mod:`rectab.optim`, means what it
means in one process.

This module needs torchrec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.batched_embedding_kernel import BaseBatchedEmbedding, BaseBatchedEmbeddingBag
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import PoolingType

from rectab.ops import segment_sum
from rectab.ops.rows import RowStore

__all__ = ["SHARDINGS", "HeldShard", "held_shards", "sharded_row_stores"]

SHARDINGS = ("table_wise", "column_wise", "row_wise")

_FORMATS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class HeldShard:
    """A part of a torchrec table that this process holds.

    Attributes:
        collection: name of the table's collection in the model.
        table: name of the table.
        first_row, first_column: of the table, where the part begins.
        store: over its rows, in the same memory.
        kernel: torchrec's, which looks up in them.
        place: of the table among those of the kernel.
    """

    collection: str
    table: str
    first_row: int
    first_column: int
    store: RowStore
    kernel: Any
    place: int


def sharded_row_stores(model: nn.Module) -> list[tuple[str, RowStore]]:
    """(name, store) of every shard that this process holds, for a row optimizer; lookups go through the stores from now
    on.

    Call it once, after ``DistributedModelParallel`` has sharded the model and before a step. Rows are stepped by what
    the stores are given to, ``RowAdam(sharded_row_stores(model), lr)``, and by nothing else: give torchrec no optimizer
    for them. A process may hold no shard; its list is empty, and it needs no row optimizer.

    Args:
        model: with tables sharded table-wise, column-wise or row-wise; pooled tables are summed.

    Raises:
        ValueError: a table is sharded in another way, or pooled by the mean, or held in codes.
    """
    return [(f"{held.collection}.{held.table}.{held.first_column}", held.store) for held in held_shards(model)]


def held_shards(model: nn.Module, fused: bool = False) -> list[HeldShard]:
    """Every shard that this process holds, as :func:`sharded_row_stores` gives them.

    Args:
        model: as there.
        fused: leave lookups to torchrec, whose fused optimizers step the rows; the stores hold them and train nothing.

    Raises:
        ValueError: as there.
    """
    held: list[HeldShard] = []
    for name, collection in model.named_modules():
        if isinstance(collection, (ShardedEmbeddingCollection, ShardedEmbeddingBagCollection)):
            for kind, kernel in _kernels(collection):
                if kind not in SHARDINGS:
                    raise ValueError(
                        f"{name}: sharded {kind}, where other processes hold the same rows; row optimizers step tables "
                        f"sharded {' or '.join(SHARDINGS)} (ParameterConstraints)"
                    )
                held += _of_kernel(kernel, name, fused)
    return held


def _kernels(collection: Any) -> Iterator[tuple[str, Any]]:
    """(how it is sharded, kernel) of every group of shards of a sharded collection."""
    kinds = getattr(collection, "_sharding_type_to_sharding", None) or collection._sharding_types
    for kind, lookup in zip(kinds, collection._lookups, strict=True):
        lookup = getattr(lookup, "module", lookup)  # of data-parallel tables, in a DDP
        yield from ((kind, kernel) for kernel in lookup._emb_modules)


def _of_kernel(kernel: Any, collection: str, fused: bool) -> list[HeldShard]:
    """A kernel's shards; unless ``fused``, it looks up in their stores from now on."""
    pooled = isinstance(kernel, BaseBatchedEmbeddingBag)
    if not pooled and not isinstance(kernel, BaseBatchedEmbedding):
        raise ValueError(f"{collection}: torchrec's {type(kernel).__name__} keeps no plain rows")
    if pooled and kernel.config.pooling is not PoolingType.SUM:
        raise ValueError(f"{collection}: row optimizers step tables that are pooled by their sum")
    held: list[HeldShard] = []
    readers: list[RowStore | Tensor] = []
    for place, table in enumerate(kernel.config.embedding_tables):
        weight = kernel.split_embedding_weights()[place]
        row, column = table.local_metadata.shard_offsets if table.local_metadata else (0, 0)
        if len(weight):
            store = _store_over(weight)
            store.trained = not fused
            held.append(HeldShard(collection, table.name, row, column, store, kernel, place))
        # Cut into more parts than there are rows, the last parts have none.
        readers += [store if len(weight) else weight.detach().float()] * table.num_features()
    if not fused:
        kernel.forward = _lookup(readers, pooled)
    return held


def _store_over(weight: Tensor) -> RowStore:
    """A store whose rows are ``weight`` [n, D], the same memory."""
    held = _FORMATS.get(weight.dtype)
    if held is None:
        raise ValueError(f"row optimizers step rows held as floats, got {weight.dtype}")
    store = RowStore(*weight.shape, rows=held, device="meta")
    store.weight = nn.Parameter(weight.detach(), requires_grad=False)
    store.handle = nn.Parameter(torch.zeros(2, device=weight.device))
    store.gradients.replicated = False
    return store


def _lookup(readers: list[RowStore | Tensor], pooled: bool) -> Callable[[KeyedJaggedTensor], Tensor]:
    """A kernel's ``forward`` over the stores that its features read."""

    def look_up(features: KeyedJaggedTensor) -> Tensor:
        vectors = []
        for store, feature in zip(readers, features.keys(), strict=True):
            jagged = features[feature]
            rows = jagged.values().to(torch.int64)
            found = store[rows] if isinstance(store, Tensor) else store(rows)
            if pooled:
                found = segment_sum(found, jagged.offsets().to(torch.int64), jagged.weights_or_none())
            vectors.append(found)
        return torch.cat(vectors, dim=1 if pooled else 0)

    return look_up

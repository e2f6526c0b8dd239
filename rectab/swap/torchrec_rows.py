"""Row optimizers of rectab on rows that torchrec has sharded: each process steps the shards that it holds.

torchrec lays out the shards and carries ids and vectors between processes; a shard's rows stay where it put them, so
that its checkpoints find them. What is replaced is the lookup in a shard: row gradients come to a row store over the
same memory, in place of FBGEMM's fused update. So L2 by replay, and every rule of :mod:`rectab.optim`, means what it
means in one process.

This module needs torchrec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

__all__ = ["sharded_row_stores"]

_FORMATS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def sharded_row_stores(model: nn.Module) -> list[tuple[str, RowStore]]:
    """(name, store) of every shard that this process holds, for a row optimizer; lookups go through the stores from now
    on.

    Call it once, after ``DistributedModelParallel`` has sharded the model and before a step. Rows are stepped by what
    the stores are given to, ``RowAdam(sharded_row_stores(model), lr)``, and by nothing else: give torchrec no optimizer
    for them. A process may hold no shard; its list is empty, and it needs no row optimizer.

    Args:
        model: with tables sharded table-wise or column-wise; pooled tables are summed.

    Raises:
        ValueError: a table is sharded in another way, or pooled by the mean, or held in codes.
    """
    stores: list[tuple[str, RowStore]] = []
    for name, collection in model.named_modules():
        if isinstance(collection, (ShardedEmbeddingCollection, ShardedEmbeddingBagCollection)):
            for kind, kernel in _kernels(collection):
                if kind not in ("table_wise", "column_wise"):
                    raise ValueError(
                        f"{name}: sharded {kind}, where other processes hold the same rows or ids are cut up; row "
                        "optimizers step tables sharded table_wise or column_wise (ParameterConstraints)"
                    )
                stores += _replaced(kernel, name)
    return stores


def _kernels(collection: Any) -> Iterator[tuple[str, Any]]:
    """(how it is sharded, kernel) of every group of shards of a sharded collection."""
    kinds = getattr(collection, "_sharding_type_to_sharding", None) or collection._sharding_types
    for kind, lookup in zip(kinds, collection._lookups, strict=True):
        lookup = getattr(lookup, "module", lookup)  # of data-parallel tables, in a DDP
        yield from ((kind, kernel) for kernel in lookup._emb_modules)


def _replaced(kernel: Any, collection: str) -> list[tuple[str, RowStore]]:
    """The stores of a kernel's shards, which it looks up in from now on."""
    pooled = isinstance(kernel, BaseBatchedEmbeddingBag)
    if not pooled and not isinstance(kernel, BaseBatchedEmbedding):
        raise ValueError(f"{collection}: torchrec's {type(kernel).__name__} keeps no plain rows")
    if pooled and kernel.config.pooling is not PoolingType.SUM:
        raise ValueError(f"{collection}: row optimizers step tables that are pooled by their sum")
    named, readers = [], []
    for table, weight in zip(kernel.config.embedding_tables, kernel.split_embedding_weights(), strict=True):
        store = _store_over(weight)
        column = table.local_metadata.shard_offsets[1] if table.local_metadata else 0
        named.append((f"{collection}.{table.name}.{column}", store))
        readers += [store] * table.num_features()
    kernel.forward = _lookup(readers, pooled)
    return named


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


def _lookup(readers: list[RowStore], pooled: bool) -> Callable[[KeyedJaggedTensor], Tensor]:
    """A kernel's ``forward`` over the stores that its features read."""

    def look_up(features: KeyedJaggedTensor) -> Tensor:
        vectors = []
        for store, feature in zip(readers, features.keys(), strict=True):
            jagged = features[feature]
            found = store(jagged.values().to(torch.int64))
            if pooled:
                found = segment_sum(found, jagged.offsets().to(torch.int64), jagged.weights_or_none())
            vectors.append(found)
        return torch.cat(vectors, dim=1 if pooled else 0)

    return look_up

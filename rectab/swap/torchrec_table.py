"""A table of plain rows that torchrec shards over the processes of a run, under the table contract.

torchrec's planner lays the rows out table-wise, column-wise or row-wise and ``DistributedModelParallel`` carries ids
and vectors; each process steps the shards that it holds (:mod:`rectab.swap.torchrec_rows`), or FBGEMM's fused
optimizers do. Lookups are unpooled, so histories read it like everything else. All processes look up together: one of
them without ids takes part all the same.

This module needs torchrec.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology

from rectab.swap.torchrec import ShardableEmbeddings
from rectab.swap.torchrec_addressing import layout_of, table_names
from rectab.swap.torchrec_fused import FusedRows, fused_params
from rectab.swap.torchrec_rows import held_shards
from rectab.tables import Plan
from rectab.tables.base import EmbeddingTable
from rectab.tables.shards import Shard

__all__ = ["ShardedTable"]

_LANES = 4  # FBGEMM's kernels want columns in fours


class ShardedTable(EmbeddingTable[Any]):
    """The table of ``planned``, whose shards this process holds a part of. It starts with the rows of one process.

    Args:
        planned: of a method of plain rows (``full``, ``hashed``, ``unified``).
        shardings: what the planner may choose from, of :data:`rectab.swap.torchrec_rows.SHARDINGS`.
        device: of the shards.
        fused: name of the optimizer (``adagrad``, ``sgd``, on CUDA ``adam``) of FBGEMM's that steps the rows within the
            backward pass; None for row optimizers.

    Raises:
        ValueError: the method keeps something else than plain rows, or FBGEMM has no such optimizer on the device.
    """

    method = "sharded"
    serves_any_id = True
    lookup_refuses = True
    place: Tensor

    def __init__(self, planned: Plan, shardings: Sequence[str], device: torch.device, fused: str | None = None) -> None:
        super().__init__(planned.vocabularies, planned.embedding_dim, planned.config, planned.options)
        self.method = planned.method  # type: ignore[misc]
        self.planned = planned
        names = [vocabulary.name for vocabulary in planned.vocabularies]
        rows = ShardableEmbeddings(planned, dict(zip(names, names, strict=True)), torch.device("meta"))
        sharded = _sharded(rows, shardings, device, {} if fused is None else fused_params(fused, device))
        made: ShardableEmbeddings = sharded.module
        made.copy_rows_from(planned.build())
        # torchrec's modules have state_dicts and parameters of their own kind; the stores over its rows stand for them.
        self._collection = (made, sharded)
        self._held, self._fused = held_shards(sharded, fused is not None), fused
        self._fused_rows: FusedRows | None = None
        self._stores = nn.ModuleList(held.store for held in self._held)
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def shards(self) -> tuple[Shard, ...]:
        layout, whole = layout_of(self.planned), self.planned.on_meta
        ranges = dict(zip(table_names(layout), layout.ranges, strict=True))
        found = []
        for index, held in enumerate(self._held):
            entry, own = ranges[held.table], held.store
            store: Any = whole.get_submodule(entry.store)
            place = (entry.first_row + held.first_row, held.first_column, own.num_rows, own.row_dim)
            found.append(Shard(f"_stores.{index}", entry.store, *place, (store.num_rows, store.row_dim)))
        return tuple(found)

    def with_all_rows(self) -> EmbeddingTable:
        return self.planned.build()

    def own_row_optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        if self._fused is None:
            return None
        stores = [(f"_stores.{index}", held) for index, held in enumerate(self._held)]
        self._fused_rows = FusedRows(stores, self._fused, lr)
        return self._fused_rows

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if self._fused_rows is not None and torch.is_grad_enabled():
            self._fused_rows.begin_lookup()
        flat, of_each = ids.reshape(-1), vocabulary.expand(ids.shape).reshape(-1)
        order = torch.argsort(of_each, stable=True)
        names = [one.name for one in self.vocabularies]
        counts = torch.bincount(of_each, minlength=len(names))
        found = self._collection[0](KeyedJaggedTensor(names, flat[order], lengths=counts))
        vectors = torch.cat([found[name].values() for name in names])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return vectors.index_select(0, place).view(*ids.shape, self.embedding_dim)

    def serving(self) -> EmbeddingTable:
        """The whole table, in every process."""
        table = self.planned.build()
        self._collection[0].gather_rows_to(table)
        return table.serving()


def _sharded(
    rows: ShardableEmbeddings, shardings: Sequence[str], device: torch.device, fused: dict[str, Any]
) -> DistributedModelParallel:
    constraints = {
        one.name: ParameterConstraints(sharding_types=_possible(one.embedding_dim, shardings), min_partition=_LANES)
        for one in rows.rows.embedding_configs()
    }
    topology = Topology(world_size=dist.get_world_size(), compute_device=device.type)
    sharders: list[Any] = [EmbeddingCollectionSharder(fused_params=fused)]
    with _quiet_planner():
        planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
        plan = planner.collective_plan(rows, sharders, dist.group.WORLD)
    return DistributedModelParallel(rows, device=device, plan=plan, sharders=sharders, init_data_parallel=False)


@contextmanager
def _quiet_planner() -> Iterator[None]:
    """While it lasts, the planner says nothing of its estimates for GPUs and for dry runs."""
    told = logging.getLogger("torchrec.distributed.planner")
    level = told.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        told.setLevel(logging.ERROR)
        try:
            yield
        finally:
            told.setLevel(level)


def _possible(width: int, shardings: Sequence[str]) -> list[str]:
    """Of ``shardings``, those that rows of ``width`` can have."""
    splits = width % _LANES == 0 and width > _LANES
    return [one for one in shardings if one != "column_wise" or splits] or ["table_wise"]

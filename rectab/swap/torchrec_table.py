"""A table of plain rows that torchrec shards over the processes of a run, under the table contract.

torchrec's planner lays the rows out table-wise or column-wise and ``DistributedModelParallel`` carries ids and vectors;
each process steps the shards that it holds (:mod:`rectab.swap.torchrec_rows`). Lookups are unpooled, so histories read
it like everything else. All processes look up together: one of them without ids takes part all the same.

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
from rectab.swap.torchrec_rows import sharded_row_stores
from rectab.tables import Plan
from rectab.tables.base import EmbeddingTable

__all__ = ["SHARDINGS", "ShardedTable"]

SHARDINGS = ("table_wise", "column_wise")
_LANES = 4  # FBGEMM's kernels want columns in fours


class ShardedTable(EmbeddingTable[Any]):
    """The table of ``planned``, whose shards this process holds a part of. It starts with the rows of one process.

    Args:
        planned: of a method of plain rows (``full``, ``hashed``, ``unified``).
        shardings: what the planner may choose from, of :data:`SHARDINGS`.
        device: of the shards.

    Raises:
        ValueError: the method keeps something else than plain rows.
    """

    method = "sharded"
    serves_any_id = True
    lookup_refuses = True
    place: Tensor

    def __init__(self, planned: Plan, shardings: Sequence[str], device: torch.device) -> None:
        super().__init__(planned.vocabularies, planned.embedding_dim, planned.config, planned.options)
        self.method = planned.method  # type: ignore[misc]
        self.planned = planned
        names = [vocabulary.name for vocabulary in planned.vocabularies]
        rows = ShardableEmbeddings(planned, dict(zip(names, names, strict=True)), torch.device("meta"))
        sharded = _sharded(rows, shardings, device)
        made: ShardableEmbeddings = sharded.module
        made.copy_rows_from(planned.build())
        # torchrec's modules have state_dicts and parameters of their own kind; the stores over its rows stand for them.
        self._collection = (made, sharded)
        self.shards = nn.ModuleList(store for _, store in sharded_row_stores(sharded))
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
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


def _sharded(rows: ShardableEmbeddings, shardings: Sequence[str], device: torch.device) -> DistributedModelParallel:
    constraints = {
        one.name: ParameterConstraints(sharding_types=_possible(one.embedding_dim, shardings), min_partition=_LANES)
        for one in rows.rows.embedding_configs()
    }
    topology = Topology(world_size=dist.get_world_size(), compute_device=device.type)
    sharders: list[Any] = [EmbeddingCollectionSharder()]
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

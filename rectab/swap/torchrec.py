"""rectab tables that torchrec shards: ids are addressed on the way in, rows live in ordinary torchrec tables.

``full``, ``hashed`` and ``unified`` keep nothing but rows. Here their rows are the ``weight`` of torchrec tables (one a
range of rows), so torchrec's planner, ``DistributedModelParallel``, fused optimizers and quantiser see what they know.
Only the hash in front is rectab's: it needs no communication, so a rank addresses its own batch.

This module needs torchrec; nothing else in rectab imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
    PoolingType,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface, EmbeddingCollectionInterface

from rectab.swap.torchrec_addressing import RowAddressing, layout_of, table_names
from rectab.swap.torchrec_plan import DATA_TYPES, plan_collection
from rectab.swap.torchrec_start import InitFunction, init_functions
from rectab.tables import EmbeddingTable, Plan

__all__ = ["RowAddressing", "ShardableBags", "ShardableEmbeddings", "plan_collection", "shardable"]


def _row_configs(
    kind: Any, planned: Plan, addressing: RowAddressing, inits: Mapping[str, InitFunction] | None, **options: Any
) -> list[Any]:
    layout = layout_of(planned)
    if planned.options.rows not in DATA_TYPES:
        raise ValueError(f"torchrec trains rows held as {', '.join(DATA_TYPES)}, not as {planned.options.rows}")
    width = planned.embedding_dim // layout.num_chunks
    readers: list[list[str]] = [[] for _ in layout.ranges]
    for feature, index in zip(addressing.features, addressing.vocabulary_indices, strict=True):
        for chunk in range(layout.num_chunks):
            readers[layout.table_of[index, chunk]].append(addressing.key(feature, chunk))
    return [
        kind(
            name=name,
            num_embeddings=rows.rows,
            embedding_dim=width,
            feature_names=names,
            data_type=DATA_TYPES[planned.options.rows],
            init_fn=init,
            **options,
        )
        for name, rows, names, init in zip(
            table_names(layout), layout.ranges, readers, init_functions(planned, layout, inits), strict=True
        )
        if names
    ]


class _Shardable(nn.Module):
    """What pooled and sequence modules share: the addressing in front, the torchrec collection ``rows`` behind."""

    addressing: RowAddressing
    rows: Any  # a torchrec collection, or its sharded successor
    planned: Plan

    @torch.no_grad()
    def copy_rows_from(self, table: EmbeddingTable) -> None:
        """Take the rows of a rectab table of the same plan; once sharded, every rank takes what it holds."""
        for weight, rows in self._weights_and_rows(table):
            if isinstance(weight, ShardedTensor):
                for shard in weight.local_shards():
                    ends = zip(shard.metadata.shard_offsets, shard.metadata.shard_sizes, strict=True)
                    shard.tensor.copy_(rows[tuple(slice(start, start + size) for start, size in ends)])
            else:
                weight.copy_(rows)

    @torch.no_grad()
    def gather_rows_to(self, table: EmbeddingTable) -> None:
        """As :meth:`copy_rows_to`, once sharded: all processes give their shards, and each gets all rows."""
        for weight, rows in self._weights_and_rows(table):
            rows.zero_()
            for shard in weight.local_shards():
                ends = zip(shard.metadata.shard_offsets, shard.metadata.shard_sizes, strict=True)
                rows[tuple(slice(start, start + size) for start, size in ends)] = shard.tensor
            dist.all_reduce(rows)

    @torch.no_grad()
    def copy_rows_to(self, table: EmbeddingTable) -> None:
        """Give the rows to a rectab table of the same plan, to save, export or serve it.

        Raises:
            ValueError: the module is sharded (load its checkpoint into an unsharded one first).
        """
        for weight, rows in self._weights_and_rows(table):
            if isinstance(weight, ShardedTensor):
                raise ValueError("the rows are sharded; load_sharded its checkpoint into an unsharded module first")
            rows.copy_(weight)

    def _weights_and_rows(self, table: EmbeddingTable) -> list[tuple[Any, Tensor]]:
        """(weight of a torchrec table, the same rows of ``table``)."""
        if (table.method, table.config) != (self.planned.method, self.planned.config):
            raise ValueError(f"the table is {table.config}, this module was planned as {self.planned.config}")
        layout = layout_of(self.planned)
        names = table_names(layout)
        weights = {key.split(".")[-2]: weight for key, weight in self.rows.state_dict().items()}
        return [
            (weights[name], _weight(table, entry.store)[entry.first_row : entry.first_row + entry.rows])
            for name, entry in zip(names, layout.ranges, strict=True)
            if name in weights
        ]


def _weight(table: EmbeddingTable, store: str) -> Tensor:
    weight: Tensor = table.get_submodule(store).weight  # type: ignore[assignment]
    return weight


class ShardableBags(_Shardable, EmbeddingBagCollectionInterface):
    """Pooled: in the place of an ``EmbeddingBagCollection``, sharded or not.

    Args:
        planned: of method ``full``, ``hashed`` or ``unified``.
        features: vocabulary read by each feature.
        pooling: ``sum`` or ``mean``.
        is_weighted: whether ids come with weights (``sum`` only, as in torchrec).
        device: ``meta`` to let ``DistributedModelParallel`` allocate.
        inits: ``init_fn`` of the host's tables by name, for rows that are a table's own; N(0, ``init_std``) if None.
    """

    def __init__(
        self,
        planned: Plan,
        features: Mapping[str, str],
        pooling: Literal["sum", "mean"] = "sum",
        is_weighted: bool = False,
        device: torch.device | str | None = None,
        inits: Mapping[str, InitFunction] | None = None,
    ) -> None:
        super().__init__()
        self.planned = planned
        self.addressing = RowAddressing(planned, features, None if _is_meta(device) else device)
        self.pooling = PoolingType.SUM if pooling == "sum" else PoolingType.MEAN
        configs = _row_configs(EmbeddingBagConfig, planned, self.addressing, inits, pooling=self.pooling)
        self.rows = EmbeddingBagCollection(tables=configs, is_weighted=is_weighted, device=_device(device))

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """KJT of B bags a feature -> KeyedTensor [B, F * D] under the features' names."""
        pooled = self.rows(self.addressing(features)).to_dict()
        chunks = range(self.addressing.num_chunks)
        names = self.addressing.features
        return KeyedTensor(
            keys=list(names),
            length_per_key=[self.planned.embedding_dim] * len(names),
            values=torch.cat([pooled[self.addressing.key(name, chunk)] for name in names for chunk in chunks], dim=1),
        )

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The vocabularies as the model knows them: logical sizes and full width."""
        return [
            EmbeddingBagConfig(
                name=vocabulary.name,
                num_embeddings=vocabulary.num_embeddings,
                embedding_dim=self.planned.embedding_dim,
                feature_names=_readers(self.addressing, index),
                pooling=self.pooling,
            )
            for index, vocabulary in enumerate(self.planned.vocabularies)
        ]

    def is_weighted(self) -> bool:
        """Whether ids come with weights."""
        return bool(self.rows.is_weighted())

    @property
    def device(self) -> torch.device:
        """Where the rows are; ``meta`` until torchrec allocates them."""
        device: torch.device = self.rows.device
        return device


class ShardableEmbeddings(_Shardable, EmbeddingCollectionInterface):
    """Not pooled: in the place of an ``EmbeddingCollection``; the arguments of :class:`ShardableBags`.

    With ``need_indices`` results carry the ids, as torchrec's do, in the place of weights.
    """

    def __init__(
        self,
        planned: Plan,
        features: Mapping[str, str],
        device: torch.device | str | None = None,
        inits: Mapping[str, InitFunction] | None = None,
        need_indices: bool = False,
    ) -> None:
        super().__init__()
        self._need_indices = need_indices
        self.planned = planned
        self.addressing = RowAddressing(planned, features, None if _is_meta(device) else device)
        configs = _row_configs(EmbeddingConfig, planned, self.addressing, inits)
        self.rows = EmbeddingCollection(tables=configs, device=_device(device))

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """KJT -> by feature, JaggedTensor of float [sum L, D]."""
        found = self.rows(self.addressing(features))
        ids = features.to_dict() if self._need_indices else {}
        result = {}
        for name in self.addressing.features:
            parts = [found[self.addressing.key(name, chunk)] for chunk in range(self.addressing.num_chunks)]
            vectors = torch.cat([part.values() for part in parts], dim=1)
            weights = ids[name].values() if self._need_indices else None
            result[name] = JaggedTensor(values=vectors, lengths=parts[0].lengths(), weights=weights)
        return result

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """The vocabularies as the model knows them: logical sizes and full width."""
        return [
            EmbeddingConfig(
                name=vocabulary.name,
                num_embeddings=vocabulary.num_embeddings,
                embedding_dim=self.planned.embedding_dim,
                feature_names=_readers(self.addressing, index),
            )
            for index, vocabulary in enumerate(self.planned.vocabularies)
        ]

    def need_indices(self) -> bool:
        """Whether results carry ids."""
        return self._need_indices

    def embedding_dim(self) -> int:
        """D, the full width of the vectors given, whatever the width of a row."""
        return self.planned.embedding_dim

    def embedding_names_by_table(self) -> list[list[str]]:
        """Names of the features that read each vocabulary, in the order of :meth:`embedding_configs`."""
        return [config.feature_names for config in self.embedding_configs()]


def _readers(addressing: RowAddressing, index: int) -> list[str]:
    pairs = zip(addressing.features, addressing.vocabulary_indices, strict=True)
    return [feature for feature, vocabulary in pairs if vocabulary == index]


def _is_meta(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "meta"


def _device(device: torch.device | str | None) -> torch.device | None:
    return None if device is None else torch.device(device)


def shardable(
    collection: EmbeddingBagCollection | EmbeddingCollection,
    method: str = "unified",
    budget: str | int | None = "25%",
    device: torch.device | str | None = None,
    **options: Any,
) -> ShardableBags | ShardableEmbeddings:
    """What takes the place of ``collection`` in a model before ``DistributedModelParallel`` shards it.

    Args:
        collection: unsharded, may be on the meta device.
        method, budget, **options: as :func:`rectab.tables.plan` takes them.
        device: of the new rows; ``meta`` to let torchrec allocate.
    """
    if isinstance(collection, EmbeddingCollection):
        planned, features = plan_collection(collection.embedding_configs(), method, budget, **options)
        inits = _inits(collection.embedding_configs(), options)
        return ShardableEmbeddings(planned, features, device, inits, collection.need_indices())
    configs = collection.embedding_bag_configs()
    poolings = {config.pooling for config in configs}
    if len(poolings) != 1:
        raise ValueError("tables with sum and with mean pooling need a collection each")
    planned, features = plan_collection(configs, method, budget, **options)
    pooling: Literal["sum", "mean"] = "sum" if poolings == {PoolingType.SUM} else "mean"
    return ShardableBags(planned, features, pooling, collection.is_weighted(), device, _inits(configs, options))


def _inits(
    configs: Sequence[EmbeddingBagConfig | EmbeddingConfig], options: Mapping[str, Any]
) -> dict[str, InitFunction] | None:
    """``options`` that the caller gives say how rows start; else the tables' own functions do."""
    return None if "options" in options else {c.name: c.init_fn for c in configs if c.init_fn is not None}

"""A packed table for ids in any order, in which they lie sorted into blocks: the form that hosts' tables take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.quantized.partition import Partition
from rectab.tables.quantized.table import QuantizedConfig, QuantizedTable
from rectab.tables.registry import TableMethod, register

__all__ = ["RankedConfig", "RankedTable"]

_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}


@dataclass(frozen=True)
class RankedConfig(QuantizedConfig):
    """Attributes: those of its base, of positions in place of ids; and

    dtype: of the vectors, ``float32``, ``float16``, ``bfloat16`` or ``float64``.
    in_order: positions are ids, whose order is by block already.
    """

    dtype: str = "float32"
    in_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in _DTYPES:
            raise ValueError(f"quantized: dtype must be one of {sorted(_DTYPES)}, got {self.dtype!r}")


class RankedTable(EmbeddingTable[RankedConfig]):
    """One vocabulary, over a packed table of its ids sorted into blocks.

    Memory: that of :class:`QuantizedTable`, and of the :class:`Partition` from ids to positions if there are several
    blocks and the ids are not in their order.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: RankedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if len(self.vocabularies) != 1:
            raise ValueError(f"quantized.ranked holds one vocabulary, got {len(self.vocabularies)}")
        self.packed = QuantizedTable(vocabularies, embedding_dim, config, self.options)
        self.partition: Partition | None = None
        if len(config.first_ids) > 1 and not config.in_order:
            sizes = [last - first for first, last in pairwise((*config.first_ids, vocabularies[0].num_embeddings))]
            self.partition = Partition(sizes, self.options.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of its vectors."""
        return _DTYPES[self.config.dtype]

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        positions = ids if self.partition is None else self.partition(ids.reshape(-1)).reshape(ids.shape)
        return self.packed(positions, 0).to(self.dtype)


register(
    TableMethod(
        name="quantized.ranked",
        summary="blocks of ids in any order, in packed bytes",
        config=RankedConfig,
        table=RankedTable,
    )
)

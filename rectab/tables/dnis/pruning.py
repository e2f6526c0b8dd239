"""What DNIS keeps: of ``E * alpha`` as much magnitude as a budget holds, in either serving form.

Only the product counts, as an embedding can grow by what its selection shrinks. The paper cuts at a threshold set by
hand, its successor AutoSrh at a share of entries; here bytes decide, indexes included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.dnis.blocks import block_sizes
from rectab.tables.dnis.config import DNISConfig, StructuredDNISConfig
from rectab.tables.dnis.serving import structured_bytes
from rectab.tables.entries import entries_bytes
from rectab.tables.learned import slices_of

__all__ = ["Pruner", "StructuredChoice", "largest_bytes", "smallest_bytes"]


@dataclass(frozen=True)
class StructuredChoice:
    """Which dimensions of which block are kept.

    Attributes:
        kept: bool [L, D].
        magnitude: sum of the sizes of the kept entries.
    """

    kept: Tensor
    magnitude: float


class Pruner:
    """Chooses what is kept within a budget.

    Args:
        vocabularies: of N ids together.
        options: how rows are held.
        rows: [N, D], the embeddings times their soft selection.
        blocks: int [N].
        num_blocks: L.
    """

    def __init__(
        self, vocabularies: Sequence[Vocabulary], options: TableOptions, rows: Tensor, blocks: Tensor, num_blocks: int
    ) -> None:
        self.vocabularies, self.options, self.rows = vocabularies, options, rows
        self.num_ids, self.embedding_dim = rows.shape
        self.sizes = torch.bincount(blocks.int(), minlength=num_blocks).tolist()
        mass = torch.zeros(num_blocks, self.embedding_dim, dtype=torch.float64, device=rows.device)
        for part in slices_of(self.num_ids):
            mass.index_add_(0, blocks[part].int(), rows[part].double().abs())
        self.mass = mass

    def config_of(self, kept: Tensor) -> StructuredDNISConfig:
        """The config of a choice bool [L, D]."""
        groups = [
            (size, tuple(columns.nonzero().flatten().tolist())) for size, columns in zip(self.sizes, kept, strict=True)
        ]
        groups = [(size, columns) for size, columns in groups if size and columns]
        return StructuredDNISConfig(tuple(size for size, _ in groups), tuple(columns for _, columns in groups))

    def structured(self, budget: int | None) -> StructuredChoice | None:
        """Dimensions of blocks by mean magnitude, densest first, each taken if it fits; None if none does.

        Those of magnitude 0 are never taken.
        """
        if budget is None:
            kept = self.mass > 0
            return StructuredChoice(kept, float(self.mass.sum())) if bool(kept.any()) else None
        kept = torch.zeros_like(self.mass, dtype=torch.bool)
        density = self.mass / torch.tensor(self.sizes, device=self.mass.device).clamp(min=1).unsqueeze(1)
        for pair in density.flatten().argsort(descending=True, stable=True).tolist():
            block, column = divmod(pair, self.embedding_dim)
            if not self.mass[block, column] > 0:
                continue
            kept[block, column] = True
            size = structured_bytes(self.vocabularies, self.embedding_dim, self.config_of(kept), self.options)
            kept[block, column] = size <= budget
        return StructuredChoice(kept, float(self.mass[kept].sum())) if bool(kept.any()) else None


def smallest_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: DNISConfig, options: TableOptions
) -> int:
    """Bytes of the smallest serving form of the config."""
    sizes = [size for size in block_sizes(sum(v.num_embeddings for v in vocabularies), config.blocks) if size]
    one = [StructuredDNISConfig((size,), ((column,),)) for size in sizes for column in (0, embedding_dim - 1)]
    structured = min(structured_bytes(vocabularies, embedding_dim, form, options) for form in one)
    sparse = entries_bytes("dnis.sparse", vocabularies, embedding_dim, 1, options)
    return {"structured": structured, "sparse": sparse, "auto": min(structured, sparse)}[config.served_form]


def largest_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: DNISConfig, options: TableOptions
) -> int:
    """Bytes that no serving form exceeds."""
    num_ids = sum(v.num_embeddings for v in vocabularies)
    sizes = [size for size in block_sizes(num_ids, config.blocks) if size]
    # Columns that are no prefix cost an index of places.
    columns = (tuple(range(embedding_dim)),) * len(sizes)
    places = len(sizes) * embedding_dim * 8
    structured = structured_bytes(vocabularies, embedding_dim, StructuredDNISConfig(tuple(sizes), columns), options)
    almost = max(num_ids * embedding_dim - 1, 1)
    sparse = entries_bytes("dnis.sparse", vocabularies, embedding_dim, almost, options) + int(options.row_bytes(1))
    return max(structured + places, sparse)

"""MLET: a narrow table that is trained as the product of a wide one and a matrix, and served as the product.

Ghaemmaghami et al., "Training with Multi-Layer Embeddings for Model Reduction", 2020. While it trains, an id has a row
of ``inner`` elements, more than are served, and every vocabulary a matrix [inner, width]; their product is the vector.
A step moves the matrix for all ids, so ids that a batch does not have are trained too. What is served is the product:
a table as narrow as the budget asks for, whose vectors end in zeros (:mod:`rectab.tables.narrow`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.fit import FitTarget
from rectab.tables.learned import slices_of
from rectab.tables.narrow import NarrowConfig, NarrowTable
from rectab.tables.parts import multiplied
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["MLETConfig", "MLETTable"]

_ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class MLETConfig:
    """Attributes:
    width: elements of a served row, 1 to D.
    inner: elements of a trained row, D or more.
    """

    width: int
    inner: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"mlet: width must be at least 1, got {self.width}")


class MLETTable(RangeTable[MLETConfig]):
    """Trained rows of ``inner`` elements and a matrix a vocabulary; :meth:`serving` is a narrow table.

    Memory while training: (sum of num_embeddings) * (bytes of a row of inner), and 4 * inner * width bytes and two
    integers a vocabulary. Served: (sum of num_embeddings) * (bytes of a row of width) and two integers a vocabulary.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: MLETConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        stretch = (max(embedding_dim, 0) / config.width) ** 0.5  # keeps the size of a vector, whatever its width
        super().__init__(
            vocabularies, embedding_dim, config, options, sizes, seed=0, row_dim=config.inner, init_gain=stretch
        )
        if not config.width <= embedding_dim <= config.inner:
            raise ValueError(f"mlet: needs width <= D <= inner, got {config} with D = {embedding_dim}")
        shape, device = (len(sizes), config.inner, config.width), self.options.device
        if torch.device(device).type == "meta":
            self.matrix = nn.Parameter(torch.empty(shape, device=device))
        else:
            generator = torch.Generator().manual_seed(self.options.seed + 1)
            self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(shape, generator=generator)).Q.to(device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows = super().lookup(ids, vocabulary)
        which = vocabulary.expand(ids.shape).reshape(-1)
        products = multiplied(rows.reshape(-1, self.config.inner), which, self.matrix)
        vectors = nn.functional.pad(products, (0, self.embedding_dim - self.config.width))
        return vectors.reshape(*ids.shape, self.embedding_dim)

    @torch.no_grad()
    def serving(self) -> EmbeddingTable:
        served = NarrowTable(self.vocabularies, self.embedding_dim, NarrowConfig(self.config.width), self.options)
        if self.device.type == "meta":
            return served.serving()
        start = 0
        for matrix, size in zip(self.matrix, self.range_sizes, strict=True):
            for part in slices_of(size, _ROWS_AT_A_TIME):
                rows = slice(start + part.start, start + part.stop)
                served.store.write(rows, self.store.read(rows) @ matrix.to(self.store.dtype))
            start += size
        return served.serving()

    @torch.no_grad()
    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Exact: elements beyond the width are cut off, the matrix stays, and rows are what gives the rest by it."""
        for target in targets:
            inverse = torch.linalg.pinv(self.matrix[target.vocabulary])
            for ids, vectors, _ in target.blocks():
                rows = vectors[:, : self.config.width] @ inverse.to(vectors.dtype)
                self.store.write(self.first_row[target.vocabulary] + ids, rows)


def mlet_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, *, inner: int | None = None
) -> Family[MLETConfig]:
    """By the served width; D without a budget. Trained rows have 2 D elements unless ``inner`` says otherwise."""
    inner = 2 * embedding_dim if inner is None else inner
    if inner < embedding_dim:
        raise ValueError(f"mlet: inner must be at least embedding_dim {embedding_dim}, got {inner}")
    return Family(lambda width: MLETConfig(width, inner), low=1, high=embedding_dim, smallest="one element an id")


register(
    TableMethod(
        name="mlet",
        summary="narrow rows, trained as the product of wide rows and a matrix",
        group="dimension reduction",
        paper="Ghaemmaghami et al., 2020",
        config=MLETConfig,
        table=MLETTable,
        family=mlet_family,
        fills="steps",
        needs_full_table=True,
        makes_rows=True,
    )
)

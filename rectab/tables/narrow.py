"""The full table at the width that fits the budget: the rival that every other table must be held against.

One row an id, as in the full table, but of few elements. Nothing is shared or learned, so what it loses is what a
narrow vector cannot say. Its sizes come in steps of one element an id; the integers of the index are not narrowed, so a
width of D / 8 takes a few bytes more than an eighth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.fit import FitTarget
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["NarrowConfig", "NarrowTable"]


@dataclass(frozen=True)
class NarrowConfig:
    """Attributes:
    width: elements of a row, 1 to D.
    project: turn a row into D elements by a trained matrix that all vocabularies share, instead of by zeros at its end.
    """

    width: int
    project: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"narrow: width must be at least 1, got {self.width}")


class NarrowTable(RangeTable[NarrowConfig]):
    """One row of ``width`` elements for every id, made D wide.

    With zeros at its end a vector is that of a model of a smaller embedding_dim, whose other inputs are dead. A matrix
    lets the model read all D, which all lie in one ``width``-dimensional space.

    Memory: (sum of num_embeddings) * width * itemsize, a first row and a number of rows per vocabulary, and
    4 * width * D bytes of the matrix if there is one.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: NarrowConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        stretch = (max(embedding_dim, 0) / config.width) ** 0.5  # keeps the size of a vector, whatever its width
        gain = 1.0 if config.project else stretch
        super().__init__(
            vocabularies, embedding_dim, config, options, sizes, seed=0, row_dim=config.width, init_gain=gain
        )
        if config.width > embedding_dim:
            raise ValueError(f"narrow: width {config.width} is more than embedding_dim {embedding_dim}")
        if config.project:
            generator = torch.Generator().manual_seed(self.options.seed + 1)
            directions = torch.linalg.qr(torch.randn(embedding_dim, config.width, generator=generator)).Q.t()
            self.projection = nn.Parameter((stretch * directions).contiguous().to(self.options.device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows = super().lookup(ids, vocabulary)
        if self.config.project:
            return rows @ self.projection.to(rows.dtype)
        return nn.functional.pad(rows, (0, self.embedding_dim - self.config.width))

    @torch.no_grad()
    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Exact least squares: elements are cut off, or the matrix takes the directions of the largest vectors."""
        width = self.config.width
        if self.config.project:
            gram = torch.zeros(self.embedding_dim, self.embedding_dim, dtype=torch.float64, device=self.device)
            for _, vectors, weights in (block for target in targets for block in target.blocks()):
                gram += (vectors * weights.unsqueeze(1)).T.double() @ vectors.double()
            self.projection.copy_(torch.linalg.eigh(gram).eigenvectors[:, -width:].T)
        for target in targets:
            for ids, vectors, _ in target.blocks():
                kept = vectors @ self.projection.T.to(vectors.dtype) if self.config.project else vectors[:, :width]
                self.store.write(self.first_row[target.vocabulary] + ids, kept)


def narrow_family(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions, *, project: bool = False
) -> Family[NarrowConfig]:
    """By width; the full width without a budget."""
    return Family(lambda width: NarrowConfig(width, project), low=1, high=embedding_dim, smallest="one element an id")


register(
    TableMethod(
        name="narrow",
        summary="one row an id, as narrow as the budget asks for",
        group="dimension reduction",
        config=NarrowConfig,
        table=NarrowTable,
        family=narrow_family,
        fills="steps",
    )
)

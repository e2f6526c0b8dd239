"""Mixed dimensions: the rarer the ids of a vocabulary, the narrower its rows; a matrix makes them D wide.

Ginart et al., "Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems", 2019. Every row
of a batch reads each vocabulary once, so one id of n is read with popularity 1 / n on average, and its width is that to
the power of the temperature ``alpha``, times a number that the budget chooses: ``d = lambda * n^-alpha``, in 1..D.
Every vocabulary that is narrower than D has a trained matrix of its own. One whose rows and matrix would take no fewer
numbers than rows of D keeps those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.fit import FitTarget
from rectab.tables.parts import in_parts, multiplied
from rectab.tables.registry import TableMethod, register

__all__ = ["MDEConfig", "MDETable"]

_STEPS = 100  # of lambda, between one width and the next


@dataclass(frozen=True)
class MDEConfig:
    """Attributes:
    widths: elements of a row of every vocabulary, in schema order; 1 to D.
    """

    widths: tuple[int, ...]


class MDETable(EmbeddingTable[MDEConfig]):
    """A store of rows for every width there is, and a matrix [width, D] for every vocabulary narrower than D.

    Memory: sum of num_embeddings * (bytes of a row of the width), 4 * width * D bytes of a matrix, and three integers a
    vocabulary.
    """

    part: Tensor
    first_row: Tensor
    matrix: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: MDEConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if len(config.widths) != len(self.vocabularies):
            raise ValueError(f"mde: widths needs one number a vocabulary, got {config.widths}")
        if not 1 <= min(config.widths) <= max(config.widths) <= embedding_dim:
            raise ValueError(f"mde: widths must be in 1..{embedding_dim}, got {config.widths}")
        self.widths = sorted(set(config.widths))
        rows, members = dict.fromkeys(self.widths, 0), dict.fromkeys(self.widths, 0)
        layout = []
        for vocabulary, width in zip(self.vocabularies, config.widths, strict=True):
            layout.append((self.widths.index(width), rows[width], members[width]))
            rows[width] += vocabulary.num_embeddings
            members[width] += 1
        for name, column in zip(("part", "first_row", "matrix"), zip(*layout, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column, dtype=torch.int64, device=self.options.device))
        generator = torch.Generator().manual_seed(self.options.seed)
        store = partial(self.options.row_store, init_std=self.options.init_std, generator=generator)
        self.stores = nn.ModuleDict({str(w): store(rows[w], w) for w in self.widths})
        self.projections = nn.ParameterDict(
            {str(w): self._projections(members[w], w, generator) for w in self.widths if w < embedding_dim}
        )

    def _projections(self, count: int, width: int, generator: torch.Generator) -> nn.Parameter:
        """[count, width, D]: orthogonal directions of a length that keeps the size of a vector."""
        if torch.device(self.options.device).type == "meta":
            return nn.Parameter(torch.empty(count, width, self.embedding_dim, device="meta"))
        drawn = torch.randn(count, self.embedding_dim, width, generator=generator)
        directions = torch.linalg.qr(drawn).Q.mT * (self.embedding_dim / width) ** 0.5
        return nn.Parameter(directions.contiguous().to(self.options.device))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        return in_parts(ids, vocabulary, self.part, [partial(self._of_width, width) for width in self.widths])

    def _of_width(self, width: int, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows: Tensor = self._store(width)(self.first_row[vocabulary] + ids)
        if width == self.embedding_dim:
            return rows
        return multiplied(rows, self.matrix[vocabulary], self.projections[str(width)])

    def _store(self, width: int) -> RowStore:
        store = self.stores[str(width)]
        assert isinstance(store, RowStore)
        return store

    @torch.no_grad()
    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Exact least squares: a matrix takes the directions in which the vectors of its vocabulary are largest."""
        for target in targets:
            width = self.config.widths[target.vocabulary]
            directions = None
            if width < self.embedding_dim:
                gram = torch.zeros(self.embedding_dim, self.embedding_dim, dtype=torch.float64, device=self.device)
                for _, vectors, weights in target.blocks():
                    gram += (vectors * weights.unsqueeze(1)).T.double() @ vectors.double()
                directions = torch.linalg.eigh(gram).eigenvectors[:, -width:]
                self.projections[str(width)][self.matrix[target.vocabulary]] = directions.T.to(torch.float32)
            for ids, vectors, _ in target.blocks():
                rows = vectors if directions is None else vectors @ directions.to(vectors.dtype)
                self._store(width).write(self.first_row[target.vocabulary] + ids, rows)


def mde_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    alpha: float = 0.3,
    powers_of_two: bool = False,
) -> Family[MDEConfig]:
    """By lambda, from a width of 1 everywhere to D everywhere."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"mde: alpha must be in 0..1, got {alpha}")
    sizes = [v.num_embeddings for v in vocabularies]

    def width(scale: float, n: int) -> int:
        wanted = min(max(scale * n**-alpha, 1.0), float(embedding_dim))
        found = 1 << int(wanted).bit_length() - 1 if powers_of_two and wanted < embedding_dim else int(wanted + 0.5)
        return found if found * (n + embedding_dim) < n * embedding_dim else embedding_dim

    return Family(
        lambda knob: MDEConfig(tuple(width(knob / _STEPS, n) for n in sizes)),
        low=_STEPS,
        high=int(_STEPS * embedding_dim * max(sizes) ** alpha) + 1,
        smallest="rows of one element, and a matrix a vocabulary",
    )


register(
    TableMethod(
        name="mde",
        summary="rows the narrower, the rarer the ids of their vocabulary; a matrix widens them",
        group="dimension reduction",
        paper="Ginart et al., 2019",
        config=MDEConfig,
        table=MDETable,
        family=mde_family,
        fills="steps",
    )
)

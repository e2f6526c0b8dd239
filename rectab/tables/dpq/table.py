"""The table of DPQ: rows that read as the nearest centroids while they train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.dpq.config import ConfigT
from rectab.tables.product import CodesTable
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table

__all__ = ["DPQTable"]

_SAMPLED = 1 << 13  # ids whose distances are looked at before the first step
_IDS_AT_A_TIME = 1 << 13
_MOMENTUM = 0.1


class DPQTable(RangeTable[ConfigT]):
    """The full table, read through codebooks.

    Memory while training: the full table, the codebooks, and two numbers a centroid. A step computes the distance of
    every distinct id of the batch to all centroids of its vocabulary.
    """

    learns_in_lookups = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, [v.num_embeddings for v in vocabularies], seed=0)
        self.codes = config.codes(self.vocabularies)
        if embedding_dim % config.parts:
            raise ValueError(f"{self.method}: parts {config.parts} does not divide embedding_dim {embedding_dim}")
        device, books = self.options.device, self.codes.books
        shape = (books, config.parts, config.num_centroids, embedding_dim // config.parts)
        self.codebook = nn.Parameter(torch.empty(shape, device=device))
        self.register_buffer("mean", torch.zeros(shape[:3], device=device))
        self.register_buffer("deviation", torch.ones(shape[:3], device=device))
        if self.device.type != "meta":
            self._initialise()

    def book_of(self, index: int) -> int:
        """The codebook of a vocabulary; -1 if it is kept whole."""
        if index not in self.config.coded:
            return -1
        return 0 if self.config.one_codebook else self.config.coded.index(index)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Centroids around 0 whose vectors have the options' deviation, and distances as a sample of ids has them."""
        generator = torch.Generator().manual_seed(self.options.seed + 1)
        drawn = torch.randn(self.codebook.shape, generator=generator)
        self.codebook.copy_((drawn - drawn.mean(2, keepdim=True)) * self.options.init_std)
        for index in self.config.coded:
            first, size = int(self.first_row[index]), self.range_sizes[index]
            rows = torch.arange(first, first + size, -(-size // _SAMPLED), device=self.device)
            queries, book = self._cut(self.store.read(rows)), self.book_of(index)
            for _ in range(4):  # a smaller codebook is also read otherwise
                self._observe(book, self._distances(book, queries), 1.0)
                std = float(self._centroids(book, self._nearest(book, queries, rows)).std(correction=0))
                self.codebook[book] *= self.options.init_std / max(std, 1e-12)
            self._observe(book, self._distances(book, queries), 1.0)

    def _cut(self, vectors: Tensor) -> Tensor:
        return vectors.float().unflatten(-1, (self.config.parts, -1))

    def _distances(self, book: int, queries: Tensor) -> Tensor:
        """[n, P, d] -> [n, P, K]: squared distances to the centroids of a codebook."""
        centroids = self.codebook[book].detach()
        product = torch.einsum("npd,pkd->npk", queries, centroids)
        return queries.square().sum(-1, keepdim=True) - 2 * product + centroids.square().sum(-1)

    def _observe(self, book: int, distances: Tensor, weight: float) -> None:
        if not self.config.normalize or distances.shape[0] < 2:
            return
        self.mean[book].lerp_(distances.mean(0), weight)
        self.deviation[book].lerp_(distances.std(0).clamp(min=1e-12), weight)

    def _nearest(self, book: int, queries: Tensor, rows: Tensor) -> Tensor:
        """[n, P, d] queries of the table's rows int64 [n] -> int64 [n, P]: the centroids they read."""
        return self._scores(book, queries).argmin(-1)

    def _scores(self, book: int, queries: Tensor) -> Tensor:
        return (self._distances(book, queries) - self.mean[book]) / self.deviation[book]

    def _centroids(self, book: int, codes: Tensor) -> Tensor:
        """int64 [n, P] -> [n, D], with the codebook's gradient."""
        parts = torch.arange(self.config.parts, device=codes.device)
        flat = (book * self.config.parts + parts) * self.config.num_centroids + codes
        return nn.functional.embedding(flat, self.codebook.view(-1, self.codebook.shape[-1])).flatten(-2)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        distinct, which = self.address(ids, vocabulary).unique(return_inverse=True)
        vectors = self.store(distinct)
        ends = torch.searchsorted(distinct, self.first_row.to(torch.int64)).tolist()
        sizes = [end - start for start, end in zip(ends, [*ends[1:], distinct.numel()], strict=True)]
        parts = zip(vectors.split(sizes), distinct.split(sizes), strict=True)
        read = [self._read(self.book_of(index), *part) for index, part in enumerate(parts)]
        return nn.functional.embedding(which, torch.cat(read))

    def _read(self, book: int, vectors: Tensor, rows: Tensor) -> Tensor:
        """What rows [n, D] of one vocabulary read as."""
        if book < 0 or not rows.numel():
            return vectors
        with torch.no_grad():
            queries = self._cut(vectors)
            if self.training:
                self._observe(book, self._distances(book, queries), _MOMENTUM)
            codes = self._nearest(book, queries, rows)
        centroids = self._centroids(book, codes).to(vectors.dtype)
        read: Tensor = _StraightThrough.apply(vectors, centroids, self.config.pull)
        return read

    def serving(self) -> EmbeddingTable:
        """The codes that rows read now."""
        options = self.options
        table = build_table("dpq.codes", self.vocabularies, self.embedding_dim, self.codes, options)
        assert isinstance(table, CodesTable)
        if self.device.type != "meta":
            self._encode(table)
        return table.serving()

    @torch.no_grad()
    def _encode(self, table: CodesTable) -> None:
        whole = [self._rows_of(i) for i in range(len(self.range_sizes)) if i not in self.config.coded]
        if whole:
            table.rows.write(slice(0, table.rows.num_rows), self.store.read(torch.cat(whole)))
        if self.config.coded:
            rows = torch.cat([self._rows_of(index) for index in self.config.coded])
            table.fill(self.groups_of(rows), torch.cat(list(self._all_codes())), self.codebook)

    def groups_of(self, rows: Tensor) -> Tensor:
        """int64 [n] rows of the table -> int64 [n]: which group of ids each is in."""
        return torch.zeros_like(rows)

    def _rows_of(self, index: int) -> Tensor:
        first = int(self.first_row[index])
        return torch.arange(first, first + self.range_sizes[index], device=self.device)

    def _all_codes(self) -> Iterator[Tensor]:
        for index in self.config.coded:
            for rows in self._rows_of(index).split(_IDS_AT_A_TIME):
                yield self._nearest(self.book_of(index), self._cut(self.store.read(rows)), rows)


class _StraightThrough(torch.autograd.Function):
    """Centroids forward; backward the gradient goes to the rows, and centroids are drawn to the rows that read them by
    the gradient of ``pull * mean((centroid - row)^2)``, wherever the loss is made."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, centroids: Tensor, pull: float) -> Tensor:
        ctx.save_for_backward(vectors, centroids)
        ctx.pull = pull
        return centroids.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors, centroids = ctx.saved_tensors
        return grad_output, (centroids - vectors) * (2.0 * ctx.pull / vectors.numel()), None

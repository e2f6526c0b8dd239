"""DPQ: rows are quantised by codebooks while they train, and only the codes are served.

Chen, Li, Sun, "Differentiable Product Quantization for End-to-End Embedding Compression", ICML 2020, its form by
nearest centroids (VQ). A row is cut into P parts; a part reads as the nearest of K centroids of its codebook. The
gradient passes straight through to the row, and a centroid is drawn towards the parts that read it. Distances are
normalised, with a mean and a deviation for each centroid, or a few centroids would be the nearest of all (the paper's
batch normalisation). Here these are running averages in training too: a vector does not depend on the rest of its
batch, and codes are those of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.product import CodesConfig, CodesTable, coded_vocabularies, divisors, group_sizes
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, build_table, bytes_of, register

__all__ = ["DPQConfig", "DPQTable", "rising"]

_SAMPLED = 1 << 13  # ids whose distances are looked at before the first step
_IDS_AT_A_TIME = 1 << 13
_MOMENTUM = 0.1


@dataclass(frozen=True)
class DPQConfig:
    """Attributes:
    parts: P, numbers of an id.
    num_centroids: K, that a number chooses from; a power of two up to 256.
    coded: indices of the vocabularies that are coded; the others, which would not become smaller, are kept whole.
    one_codebook: all vocabularies share a codebook; otherwise each has its own.
    pull: how fast centroids are drawn to the parts that read them, a weight beside the loss.
    normalize: normalise distances.
    """

    parts: int
    num_centroids: int
    coded: tuple[int, ...]
    one_codebook: bool = False
    pull: float = 1.0
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.num_centroids not in (2, 4, 8, 16, 32, 64, 128, 256):
            raise ValueError(f"num_centroids must be a power of two from 2 to 256, got {self.num_centroids}")
        if self.pull < 0:
            raise ValueError(f"pull must be at least 0, got {self.pull}")

    def codes(self, vocabularies: Sequence[Vocabulary]) -> CodesConfig:
        """What it is served as."""
        bits = self.num_centroids.bit_length() - 1
        ids = group_sizes(vocabularies, self.coded, (1.0,))
        return CodesConfig(self.parts, (bits,), ids, self.coded, self.one_codebook)


ConfigT = TypeVar("ConfigT", bound=DPQConfig)


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


def rising(
    method: str,
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    configs: Sequence[ConfigT],
) -> list[ConfigT]:
    """Of these, those that no other one beats by more bits an id in fewer bytes; by bytes."""
    counted = replace(options, device="meta")
    sizes = [bytes_of(method, vocabularies, embedding_dim, config, counted) for config in configs]

    def bits_an_id(config: ConfigT) -> int:
        return config.parts * (config.num_centroids.bit_length() - 1)

    kept: list[ConfigT] = []
    for _, config in sorted(zip(sizes, configs, strict=True), key=lambda pair: (pair[0], -bits_an_id(pair[1]))):
        if not kept or bits_an_id(config) > bits_an_id(kept[-1]):
            kept.append(config)
    return kept


def dpq_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    parts: int | None = None,
    num_centroids: int | None = None,
    one_codebook: bool = False,
    pull: float = 1.0,
    normalize: bool = True,
) -> Family[DPQConfig]:
    """By parts and centroids, as far as these are not given; 8 parts (or what divides D) and 32 centroids, as in the
    VLDB benchmark, without a budget."""

    def config_of(count: int, centroids: int) -> DPQConfig:
        bits = centroids.bit_length() - 1
        coded = coded_vocabularies(vocabularies, embedding_dim, options, count * bits, centroids, one_codebook)
        return DPQConfig(count, centroids, coded, one_codebook, pull, normalize)

    counts = divisors(embedding_dim) if parts is None else [parts]
    books = [2**bits for bits in range(1, 9)] if num_centroids is None else [num_centroids]
    every = [config_of(count, centroids) for count in counts for centroids in books]
    members = rising("dpq", vocabularies, embedding_dim, options, every)
    own = config_of(parts or max(n for n in counts if n <= 8), num_centroids or 32)
    return Family(members.__getitem__, low=0, high=len(members) - 1, own=lambda: own, smallest="the fewest bits an id")


register(
    TableMethod(
        name="dpq",
        summary="rows quantised by codebooks while they train, served as codes",
        group="dynamic encoding",
        paper="Chen et al., ICML 2020",
        config=DPQConfig,
        table=DPQTable,
        family=dpq_family,
        fills="steps",
        needs_full_table=True,
        makes_rows=True,
    )
)

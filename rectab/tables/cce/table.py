"""The table of CCE: rows that ids point to, rows that they are hashed to, and the clustering that moves them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from rectab.ops import RowStore, hash_rows, salt_of
from rectab.optim import RowOptimizer
from rectab.quantize.kmeans import QUICK, fit_codebooks, nearest_centroids
from rectab.quantize.metric import Metric
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.cce.config import CCEConfig
from rectab.tables.compact import index_dtype

__all__ = ["CCETable"]


class CCETable(EmbeddingTable[CCEConfig]):
    """Memory: 2 * (sum of num_rows) rows of D, ``num_chunks`` integers an id (1, 2 or 4 bytes), and ``num_chunks``
    salts and two integers a vocabulary.
    """

    pointer: Tensor
    salt: Tensor
    first_id: Tensor
    first_row: Tensor
    looked_up: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CCEConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if len(config.num_rows) != len(self.vocabularies):
            raise ValueError(f"cce: num_rows needs one number a vocabulary, got {config.num_rows}")
        if embedding_dim % config.num_chunks:
            raise ValueError(f"cce: num_chunks {config.num_chunks} does not divide embedding_dim {embedding_dim}")
        self.sizes, device = [v.num_embeddings for v in self.vocabularies], self.options.device
        shape, total = (sum(self.sizes), config.num_chunks), sum(config.num_rows)
        self.register_buffer("pointer", torch.zeros(shape, dtype=index_dtype(max(config.num_rows) - 1), device=device))
        self.register_buffer("salt", self._salts("residual 0").to(device))
        for name, sizes in (("first_id", self.sizes), ("first_row", config.num_rows)):
            values = [0, *accumulate(sizes)]
            self.register_buffer(name, torch.tensor(values, dtype=index_dtype(values[-1]), device=device))
        # Lookups since the last clustering, and clusterings.
        self.register_buffer("looked_up", torch.zeros(2, dtype=torch.int64, device=device))
        generator = torch.Generator().manual_seed(self.options.seed)
        width, std = embedding_dim // config.num_chunks, self.options.init_std / 2**0.5
        rows = total * config.num_chunks
        self.centroid = self.options.row_store(rows, width, init_std=std, generator=generator)
        self.residual = self.options.row_store(rows, width, init_std=std, generator=generator)
        if self.pointer.device.type != "meta":
            self._point_by_hash()

    def _salts(self, what: str) -> Tensor:
        """int64 [V, num_chunks]."""
        chunks = range(self.config.num_chunks)
        return torch.tensor([[salt_of(self.config.seed, v.name, what, c) for c in chunks] for v in self.vocabularies])

    def _point_by_hash(self) -> None:
        """At first both rows are hashed to; ids that have rows enough point to one each."""
        salts = self._salts("centroid")
        parts = self.pointer.split(self.sizes)
        for part, salt, size, rows in zip(parts, salts, self.sizes, self.config.num_rows, strict=True):
            ids = torch.arange(size).unsqueeze(1)
            part.copy_(ids if rows >= size else hash_rows(ids, salt, rows))

    def _rows(self, ids: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [*] -> int64 [*, num_chunks], of both stores."""
        first, chunks = self.first_row[vocabulary].unsqueeze(-1), self.config.num_chunks
        count = self.first_row[vocabulary + 1].unsqueeze(-1) - first
        to = self.pointer[self.first_id[vocabulary] + ids].to(torch.int64)
        by_hash = hash_rows(ids.unsqueeze(-1), self.salt[vocabulary], count.to(torch.int64))
        place = torch.arange(chunks, device=ids.device)
        return (first + to) * chunks + place, (first + by_hash) * chunks + place

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.looked_up[0] += ids.numel()
        pointed, hashed = self._rows(ids, vocabulary)
        vectors: Tensor = self.centroid(pointed) + self.residual(hashed)
        return vectors.flatten(-2)

    @torch.no_grad()
    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """Cluster, if enough has been looked up since it was done last."""
        looked_up, done = self.looked_up.tolist()
        counted = sum(float(v.num_embeddings if v.counts is None else v.counts.sum()) for v in self.vocabularies)
        if done < self.config.clusterings and looked_up >= self.config.every * counted:
            if optimizer is not None:
                optimizer.catch_up()
            self.looked_up[0], self.looked_up[1] = 0, done + 1
            self.cluster(f"residual {done + 1}", optimizer)

    def cluster(self, what: str, optimizer: RowOptimizer | None) -> None:
        """Cluster every vocabulary that has fewer rows than ids; ``what`` names the new hash."""
        salts = self._salts(what)
        for index, (size, rows) in enumerate(zip(self.sizes, self.config.num_rows, strict=True)):
            if rows < size:
                self._cluster_one(index, salts[index], optimizer)
                self.salt[index] = salts[index].to(self.salt.device)

    def _cluster_one(self, index: int, salts: Tensor, optimizer: RowOptimizer | None) -> None:
        size, rows, chunks = self.sizes[index], self.config.num_rows[index], self.config.num_chunks
        device, width = self.pointer.device, self.embedding_dim // chunks
        vectors = self(torch.arange(size, device=device), index).float().cpu()
        metric, weights = Metric.plain(self.embedding_dim), torch.ones(size).numpy()
        books = fit_codebooks(vectors.numpy(), weights, width, rows, self.config.seed + index, metric, QUICK)
        codes = torch.from_numpy(nearest_centroids(vectors.numpy(), books, metric).astype("int64"))
        centroids = torch.stack([torch.from_numpy(book) for book in books], 1)  # [rows, chunks, width]
        left = vectors.view(size, chunks, width) - centroids[codes, torch.arange(chunks)]
        by_hash = hash_rows(torch.arange(size).unsqueeze(1), salts, rows) * chunks + torch.arange(chunks)
        self.pointer.split(self.sizes)[index].copy_(codes)
        at = int(self.first_row[index]) * chunks + torch.arange(rows * chunks, device=device)
        _restart(self.centroid, at, centroids.flatten(0, 1), optimizer)
        _restart(self.residual, at, _means(left.flatten(0, 1), by_hash.flatten(), rows * chunks), optimizer)


def _means(values: Tensor, places: Tensor, count: int) -> Tensor:
    """fp32 [n, d] at int64 [n] -> fp32 [count, d]: the mean of each place, 0 where there is none."""
    sums = torch.zeros(count, values.shape[1]).index_add_(0, places, values)
    return sums / torch.bincount(places, minlength=count).clamp(min=1).unsqueeze(1)


def _restart(store: RowStore, rows: Tensor, values: Tensor, optimizer: RowOptimizer | None) -> None:
    """The rows stand for other ids now."""
    write = store.write if optimizer is None else partial(optimizer.reset, store)
    write(rows, values.to(store.device))

"""MGQE: product-quantised rows whose frequent ids choose from more centroids than rare ones.

Kang et al., "Learning Multi-granular Quantized Embeddings for Large-Vocab Categorical Features in Recommender Systems",
WWW 2020 (companion), with one codebook for all groups of a vocabulary (section 3.3): the rarer group uses the first
centroids of it. It is DPQ (:mod:`rectab.tables.dpq`) with groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.dpq import DPQConfig, DPQTable, rising
from rectab.tables.family import Family
from rectab.tables.product import CodesConfig, coded_vocabularies, divisors, group_sizes
from rectab.tables.registry import TableMethod, register

__all__ = ["MGQEConfig", "MGQETable"]


@dataclass(frozen=True)
class MGQEConfig(DPQConfig):
    """Attributes:
    fewer: centroids of the groups behind the first, which has ``num_centroids``.
    shares: of the ids of a vocabulary, the most frequent first, one for each group.
    """

    fewer: tuple[int, ...] = (64,)
    shares: tuple[float, ...] = (0.1, 0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        centroids = (self.num_centroids, *self.fewer)
        if list(centroids) != sorted(centroids, reverse=True) or any(n < 2 or n & (n - 1) for n in centroids):
            raise ValueError(f"mgqe: centroids must be falling powers of two, got {centroids}")
        if len(self.shares) != len(centroids) or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"mgqe: shares must be {len(centroids)} positive numbers that sum to 1, got {self.shares}")

    @property
    def bits(self) -> tuple[int, ...]:
        """Of a number, by group."""
        return tuple(n.bit_length() - 1 for n in (self.num_centroids, *self.fewer))

    def codes(self, vocabularies: Sequence[Vocabulary]) -> CodesConfig:
        ids = group_sizes(vocabularies, self.coded, self.shares)
        return CodesConfig(self.parts, self.bits, ids, self.coded, self.one_codebook)


class MGQETable(DPQTable[MGQEConfig]):
    """As DPQ's, and a byte an id that says its group."""

    group: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: MGQEConfig,
        options: TableOptions | None = None,
    ) -> None:
        self._assigned = _assign_groups(vocabularies, config.shares, (options or TableOptions()).device)
        super().__init__(vocabularies, embedding_dim, config, options)
        self.register_buffer("group", self._assigned)
        del self._assigned

    def groups_of(self, rows: Tensor) -> Tensor:
        group = self._assigned if "_assigned" in self.__dict__ else self.group  # the first, while it is initialised
        return group[rows].to(torch.int64)

    def _nearest(self, book: int, queries: Tensor, rows: Tensor) -> Tensor:
        scores = self._scores(book, queries)
        limits = torch.tensor([1 << b for b in self.config.bits], device=rows.device)[self.groups_of(rows)]
        beyond = torch.arange(scores.shape[-1], device=rows.device) >= limits.view(-1, 1, 1)
        return scores.masked_fill(beyond, float("inf")).argmin(-1)


def _assign_groups(vocabularies: Sequence[Vocabulary], shares: Sequence[float], device: torch.device | str) -> Tensor:
    """uint8 [N]: the group of every id, by its rank within its vocabulary; ties go to the lower id, and without counts
    the lower ids are the frequent ones."""
    groups = torch.zeros(sum(v.num_embeddings for v in vocabularies), dtype=torch.uint8, device=device)
    if groups.is_meta:
        return groups
    start = 0
    for vocabulary in vocabularies:
        size = vocabulary.num_embeddings
        counts = np.zeros(size) if vocabulary.counts is None else vocabulary.counts
        order = torch.from_numpy(np.argsort(-counts, kind="stable")).to(device)
        ends = [round(end * size) for end in accumulate(shares)]
        for group, end in enumerate(ends[:-1]):
            groups[start + order[end:]] = group + 1
        start += size
    return groups


def mgqe_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    parts: int | None = None,
    centroids: tuple[int, ...] | None = None,
    shares: tuple[float, ...] = (0.1, 0.9),
    one_codebook: bool = False,
    pull: float = 1.0,
    normalize: bool = True,
) -> Family[MGQEConfig]:
    """By parts and, where they are not given, by centroids: 256 and 64, or as many times fewer; 4 parts (or what
    divides D) of the former without a budget."""
    if centroids is not None and not centroids:
        raise ValueError("mgqe: centroids needs a number for every group")

    def config_of(count: int, centroids: tuple[int, ...]) -> MGQEConfig:
        draft = MGQEConfig(count, centroids[0], (), one_codebook, pull, normalize, centroids[1:], shares)
        bits = count * sum(share * bits for share, bits in zip(shares, draft.bits, strict=True)) + 1
        coded = coded_vocabularies(vocabularies, embedding_dim, options, bits, centroids[0], one_codebook)
        return MGQEConfig(count, centroids[0], coded, one_codebook, pull, normalize, centroids[1:], shares)

    counts = divisors(embedding_dim) if parts is None else [parts]
    first = (256, 64) if centroids is None else centroids
    halved = [tuple(max(n >> fall, 2) for n in first) for fall in range(8 if centroids is None else 1)]
    every = [config_of(count, each) for count in counts for each in halved]
    members = rising("mgqe", vocabularies, embedding_dim, options, every)
    own = config_of(parts or max(n for n in counts if n <= 4), first)
    return Family(members.__getitem__, low=0, high=len(members) - 1, own=lambda: own, smallest="one number an id")


register(
    TableMethod(
        name="mgqe",
        summary="rows quantised by codebooks, of which frequent ids may use more",
        group="dynamic encoding",
        paper="Kang et al., WWW 2020",
        config=MGQEConfig,
        table=MGQETable,
        family=mgqe_family,
        fills="steps",
        needs_counts=True,
        needs_full_table=True,
        makes_rows=True,
    )
)

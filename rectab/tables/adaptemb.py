"""Adaptive embedding: the most frequent ids have rows of their own, all others share hashed rows.

The baseline called AdaptEmb in Zhang et al., "Experimental Analysis of Large-scale Learnable Vector Storage
Compression", VLDB 2024. Which ids are hot is decided over all vocabularies together, by training counts. Ids of a
vocabulary are numbered by frequency, so the hot ones are its first, and one integer says which they are: there is no
index, which would take 4 bytes an id.

Vocabularies without counts, as those of a host's model, are taken to be numbered by frequency, to fall as 1 / rank and
to be read equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rectab.ops import address_rows
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["AdaptEmbConfig", "AdaptEmbTable"]


@dataclass(frozen=True)
class AdaptEmbConfig:
    """Attributes:
    hot: of every vocabulary, in schema order, how many of its first ids have a row each.
    shared: rows that its other ids are hashed into; 0 if it has no others.
    seed: of the hash.
    """

    hot: tuple[int, ...]
    shared: tuple[int, ...]
    seed: int = 0


class AdaptEmbTable(RangeTable[AdaptEmbConfig]):
    """A range of rows for every vocabulary, first those of its hot ids.

    Any id of a vocabulary that shares rows is served; an id outside one that is hot to its end raises IndexError.

    Memory: (sum of hot and shared) * (bytes of a row) + 24 bytes a vocabulary.
    """

    hot: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: AdaptEmbConfig,
        options: TableOptions | None = None,
    ) -> None:
        if not len(config.hot) == len(config.shared) == len(vocabularies) or min(*config.hot, *config.shared) < 0:
            raise ValueError(f"adaptemb: hot and shared need one number of at least 0 a vocabulary, got {config}")
        for v, hot, shared in zip(vocabularies, config.hot, config.shared, strict=True):
            if v.hashed and hot:
                raise ValueError(f"adaptemb: ids of {v.name!r} are hashed; none can be hot")
            if not v.hashed and (hot > v.num_embeddings or (hot < v.num_embeddings and not shared)):
                raise ValueError(f"adaptemb: {v.name!r} has {v.num_embeddings} ids, of which {hot} and {shared} rows")
        rows = [hot + shared for hot, shared in zip(config.hot, config.shared, strict=True)]
        super().__init__(vocabularies, embedding_dim, config, options, rows, config.seed)
        apart = [0 if whole else hot for whole, hot in zip(self.whole, config.hot, strict=True)]
        self.register_buffer("hot", torch.tensor(apart, dtype=torch.int64, device=self.options.device))

    def address(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if all(self.whole):
            return super().address(ids, vocabulary)
        hot, first = self.hot[vocabulary], self.first_row[vocabulary]
        own = (ids >= 0) & (ids < hot)
        shared = address_rows(ids, self.salt[vocabulary], first + hot, self.num_rows[vocabulary] - hot)
        return (first + ids).where(own, shared)

    def addresses(self) -> tuple[Address, ...]:
        return () if any(self.config.hot) and not all(self.whole) else super().addresses()


def _by_popularity(vocabularies: Sequence[Vocabulary]) -> np.ndarray:
    """int64 [n]: of every id that may be hot, from the most to the least frequent, its vocabulary.

    Raises:
        ValueError: ids are not numbered by frequency.
    """
    counted = [float(v.counts.sum()) for v in vocabularies if v.counts is not None]
    columns, weights = [], []
    for index, vocabulary in enumerate(vocabularies):
        if vocabulary.hashed:
            continue
        if vocabulary.counts is None:
            found = 1 / np.arange(1.0, vocabulary.num_embeddings + 1)
            found *= (np.mean(counted) if counted else 1.0) / found.sum()
        else:
            found = vocabulary.counts.astype(np.float64)
            if np.any(np.diff(found[1:]) > 0):
                raise ValueError(f"adaptemb: ids of {vocabulary.name!r} are not numbered by frequency")
            found[0] = found[:2].max()  # what every unseen id reads
        columns.append(np.full(vocabulary.num_embeddings, index))
        weights.append(found)
    if not columns:
        return np.zeros(0, np.int64)
    return np.concatenate(columns)[np.argsort(-np.concatenate(weights), kind="stable")]


def adaptemb_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    hot_share: float = 0.5,
    seed: int = 0,
) -> Family[AdaptEmbConfig]:
    """By rows of all vocabularies together, of which ``hot_share`` belong to hot ids; the rest is shared out in
    proportion to the ids that are left. All ids' rows without a budget."""
    if not 0 <= hot_share < 1:
        raise ValueError(f"adaptemb: hot_share must be at least 0 and below 1, got {hot_share}")
    sizes = np.asarray([v.num_embeddings for v in vocabularies])
    popular = _by_popularity(vocabularies)

    def config_of(total: int) -> AdaptEmbConfig:
        most = min(int(hot_share * total), total - len(sizes), len(popular))
        hot = np.bincount(popular[:most], minlength=len(sizes))
        left = sizes - hot
        tails = np.flatnonzero(left)
        shared = np.zeros_like(sizes)
        if tails.size:
            shared[tails] = allocate_rows(left[tails].tolist(), total - most, whole_below=1)
        return AdaptEmbConfig(tuple(hot.tolist()), tuple(shared.tolist()), seed)

    return Family(config_of, low=len(sizes), high=int(sizes.sum()), smallest="one row a vocabulary")


register(
    TableMethod(
        name="adaptemb",
        summary="a row each for the most frequent ids, hashed rows for all others",
        group="dynamic encoding",
        paper="Zhang et al., VLDB 2024",
        config=AdaptEmbConfig,
        table=AdaptEmbTable,
        family=adaptemb_family,
        serves_any_id=True,
    )
)

"""Adaptive embedding: the most frequent ids have rows of their own, all others share hashed rows.

The baseline called AdaptEmb in Zhang et al., "Experimental Analysis of Large-scale Learnable Vector Storage
Compression", VLDB 2024. Which ids are hot is decided over all vocabularies together, by training counts. Ids of a
prepared vocabulary are numbered by frequency, so the hot ones are its first, and one integer says which they are: there
is no index, which would take 4 bytes an id. Where counts do not fall with the id, as in a host's model, the hot ids are
an id set (:mod:`rectab.tables.idset`), of 1.1 bits an id or 1 to 2 bytes a hot one.

Vocabularies without counts are taken to be numbered by frequency, to fall as 1 / rank and to be read equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from rectab.ops import address_rows
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows
from rectab.tables.idset import IdSet
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["AdaptEmbConfig", "AdaptEmbTable"]


@dataclass(frozen=True)
class AdaptEmbConfig:
    """Attributes:
    hot: of every vocabulary, in schema order, how many of its ids have a row each.
    shared: rows that its other ids are hashed into; 0 if it has no others.
    ordered: whether the hot ids are the first.
    seed: of the hash.
    """

    hot: tuple[int, ...]
    shared: tuple[int, ...]
    ordered: bool = True
    seed: int = 0


class AdaptEmbTable(RangeTable[AdaptEmbConfig]):
    """A range of rows for every vocabulary, first those of its hot ids.

    Any id of a vocabulary that shares rows is served; an id outside one that is hot to its end raises IndexError.

    Memory: (sum of hot and shared) * (bytes of a row) + 24 bytes a vocabulary; where ids are not numbered by frequency,
    an id set of those that are hot and 16 bytes a vocabulary besides.
    """

    hot: Tensor
    first_id: Tensor
    hot_before: Tensor

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
        self._register("hot", apart)
        if not config.ordered and any(apart):
            sizes = [v.num_embeddings for v in self.vocabularies]
            self._register("first_id", list(accumulate(sizes[:-1], initial=0)))
            self._register("hot_before", list(accumulate(apart[:-1], initial=0)))
            self.hot_ids = IdSet(sum(sizes), sum(apart), device=self.options.device)
            if self.device.type != "meta" and all(v.counts is not None or v.hashed for v in self.vocabularies):
                self.hot_ids.fill(self._hottest(apart).to(self.device))

    def _register(self, name: str, numbers: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64, device=self.options.device))

    def _hottest(self, apart: Sequence[int]) -> Tensor:
        """int64 [sum of apart], ascending: the most frequent ids of every vocabulary, numbered over all."""
        parts, first = [], 0
        for vocabulary, count in zip(self.vocabularies, apart, strict=True):
            if count:
                parts.append(first + np.sort(np.argsort(-_popularity(vocabulary), kind="stable")[:count]))
            first += vocabulary.num_embeddings
        return torch.from_numpy(np.concatenate(parts))

    def address(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if all(self.whole):
            return super().address(ids, vocabulary)
        hot, first = self.hot[vocabulary], self.first_row[vocabulary]
        place, own = ids, (ids >= 0) & (ids < hot)
        if hasattr(self, "hot_ids"):
            last = self.hot_ids.num_ids - 1
            inside = (ids >= 0) & (ids <= last)
            rank, own = self.hot_ids.rank((self.first_id[vocabulary] + ids.where(inside, 0)).clamp(max=last))
            place = rank - self.hot_before[vocabulary]
            own = own & inside & (place < hot)  # an id behind the last of its vocabulary is another's
        shared = address_rows(ids, self.salt[vocabulary], first + hot, self.num_rows[vocabulary] - hot)
        return (first + place).where(own, shared)

    def addresses(self) -> tuple[Address, ...]:
        return () if any(self.config.hot) and not all(self.whole) else super().addresses()


def _popularity(vocabulary: Vocabulary, usual: float = 1.0) -> np.ndarray:
    """float64 [num_embeddings]: counts; those of a vocabulary without sum to ``usual``. Id 0 is what every unseen id
    reads, and never the rarest."""
    if vocabulary.counts is None:
        found = 1 / np.arange(1.0, vocabulary.num_embeddings + 1)
        return found * (usual / found.sum())
    found = vocabulary.counts.astype(np.float64)
    found[0] = found.max()
    return found


def _by_popularity(vocabularies: Sequence[Vocabulary]) -> np.ndarray:
    """int64 [n]: of every id that may be hot, from the most to the least frequent, its vocabulary."""
    counted = [float(v.counts.sum()) for v in vocabularies if v.counts is not None]
    usual = float(np.mean(counted)) if counted else 1.0
    fitted = [(index, v) for index, v in enumerate(vocabularies) if not v.hashed]
    if not fitted:
        return np.zeros(0, np.int64)
    columns = np.concatenate([np.full(v.num_embeddings, index) for index, v in fitted])
    return columns[np.argsort(-np.concatenate([_popularity(v, usual) for _, v in fitted]), kind="stable")]


def _ordered(vocabularies: Sequence[Vocabulary]) -> bool:
    """Whether ids are numbered by frequency, as far as it is known."""
    return all(v.hashed or v.counts is None or bool(np.all(np.diff(v.counts[1:]) <= 0)) for v in vocabularies)


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
    popular, ordered = _by_popularity(vocabularies), _ordered(vocabularies)

    def config_of(total: int) -> AdaptEmbConfig:
        most = min(int(hot_share * total), total - len(sizes), len(popular))
        hot = np.bincount(popular[:most], minlength=len(sizes))
        left = sizes - hot
        tails = np.flatnonzero(left)
        shared = np.zeros_like(sizes)
        if tails.size:
            shared[tails] = allocate_rows(left[tails].tolist(), total - most, whole_below=1)
        return AdaptEmbConfig(tuple(hot.tolist()), tuple(shared.tolist()), ordered, seed)

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

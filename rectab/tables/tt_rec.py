"""TT-Rec: a table as a tensor train, whose rows are products of slices of three small cores.

Yin et al., "TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models", MLSys 2021. A table of n ids and
D elements is seen as a tensor of shape (n1 d1) x (n2 d2) x (n3 d3), with n1 n2 n3 >= n and d1 d2 d3 = D. Id i has three
digits, and its vector is the product of the slices ``G1[i1]`` [d1, r], ``G2[i2]`` [r, d2 r] and ``G3[i3]`` [r, d3]. The
rank r is what a budget chooses. Slices are rows of three stores, so a step updates those that it read.

A vocabulary whose train would take no fewer numbers than its rows keeps them. Initial values of the cores are the
paper's sampled Gaussian, drawn from the tails of a normal distribution alone: products of normal numbers are next to
nothing far too often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import erf, exp, pi, sqrt

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rectab.ops import RowStore
from rectab.ops.dispatch import is_eager
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.parts import in_parts
from rectab.tables.registry import TableMethod, register

__all__ = ["TTRecConfig", "TTRecTable", "factors_of_dim", "factors_of_size"]

_TAIL = 2.0  # deviations from which the sampled Gaussian draws
_OWN_RANK = 32
_ELEMENTS_AT_A_TIME = 1 << 23  # of gathered slices; the backward pass gathers them again
_ROWS_AT_A_TIME = 1 << 14


@dataclass(frozen=True)
class TTRecConfig:
    """Attributes:
    rank: r, of all vocabularies.
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"tt_rec: rank must be at least 1, got {self.rank}")


def factors_of_size(num_ids: int) -> tuple[int, int, int]:
    """Three numbers as equal as can be with a product of ``num_ids`` or more, the middle one the least: its slices are
    the largest."""
    least = max(1, int(num_ids ** (1 / 3) + 1e-6))
    rest = -(-num_ids // least)
    last = max(1, int(sqrt(rest)))
    return -(-rest // last), least, last


def factors_of_dim(embedding_dim: int) -> tuple[int, int, int]:
    """Three divisors with the product ``embedding_dim``, as equal as can be, ascending: 16 is 2 * 2 * 4."""
    d = embedding_dim
    triples = [
        (a, b, d // (a * b)) for a in range(1, d + 1) if d % a == 0 for b in range(a, d // a + 1) if (d // a) % b == 0
    ]
    return min((t for t in triples if t[1] <= t[2]), key=lambda t: (sum(t), t))


class TTRecTable(EmbeddingTable[TTRecConfig]):
    """Three stores of core slices; vocabulary v owns a range of rows in each. A fourth has the rows of vocabularies
    that are kept whole.

    Memory: for every other vocabulary n1 * d1 * r + n2 * r * d2 * r + n3 * r * d3 elements, and seven integers a
    vocabulary.
    """

    layout: Tensor
    part: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: TTRecConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        rank, (d1, d2, d3) = config.rank, factors_of_dim(embedding_dim)
        self.dims, self.widths = (d1, d2, d3), (d1 * rank, rank * d2 * rank, rank * d3)
        sizes = [v.num_embeddings for v in self.vocabularies]
        digits = [factors_of_size(n) for n in sizes]
        numbers = [sum(k * w for k, w in zip(three, self.widths, strict=True)) for three in digits]
        whole = [n * embedding_dim <= taken for n, taken in zip(sizes, numbers, strict=True)]
        rows = [[n, 0, 0, 0] if w else [0, *three] for n, w, three in zip(sizes, whole, digits, strict=True)]
        first = [list(accumulate(column[:-1], initial=0)) for column in zip(*rows, strict=True)]
        layout = [[*(f[v] for f in first), *digits[v]] for v in range(len(sizes))]
        device = self.options.device
        self.register_buffer("layout", torch.tensor(layout, dtype=torch.int64, device=device))
        # The rows that are kept come first, where both are there.
        kept, trained = any(whole), not all(whole)
        self.register_buffer("part", torch.tensor([int(kept and not w) for w in whole], device=device))
        generator, std = torch.Generator().manual_seed(self.options.seed), self.options.init_std
        totals = [sum(column) for column in zip(*rows, strict=True)]
        if kept:
            self.whole = self.options.row_store(totals[0], embedding_dim, init_std=std, generator=generator)
        if trained:
            each = (std / rank) ** (1 / 3)  # r^2 products of three
            stores = [self.options.row_store(t, w, init_std=0.0) for t, w in zip(totals[1:], self.widths, strict=True)]
            self.first, self.middle, self.last = stores
            for store in stores:
                _start_in_tails(store, each, generator)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        lookups = [f for f, store in ((self._whole, "whole"), (self._product, "first")) if hasattr(self, store)]
        return in_parts(ids, vocabulary, self.part, lookups)

    def _whole(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        return self.whole(self.layout[vocabulary, 0] + ids)

    def _product(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [n] -> [n, D]."""
        at = self.layout[vocabulary]
        high, third = _divided(ids, at[:, 6])
        first, second = _divided(high, at[:, 5])
        rows = torch.stack([first, second, third], 1) + at[:, 1:4]
        if not is_eager(rows) or hasattr(self.middle.before_lookup, "asks_for_every_id"):
            return self._vectors(self.first(rows[:, 0]), self.middle(rows[:, 1]), self.last(rows[:, 2]))
        # Slices of the middle core are large: each is asked for once, and those of some ids are laid out at a time.
        distinct, inverse = rows.unique(dim=0, return_inverse=True)
        used, middle = distinct[:, 1].unique(return_inverse=True)
        first, last, slices = self.first(distinct[:, 0]), self.last(distinct[:, 2]), self.middle(used)
        step = max(1, _ELEMENTS_AT_A_TIME // self.widths[1])
        pieces = zip(first.split(step), middle.split(step), last.split(step), strict=True)
        parts = [self._laid_out(first, slices, middle, last) for first, middle, last in pieces]
        return torch.nn.functional.embedding(inverse, torch.cat(parts))

    def _laid_out(self, first: Tensor, slices: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        def vectors(first: Tensor, slices: Tensor, last: Tensor) -> Tensor:
            return self._vectors(first, torch.nn.functional.embedding(middle, slices), last)

        if not torch.is_grad_enabled() or middle.numel() * self.widths[1] < _ELEMENTS_AT_A_TIME // 2:
            return vectors(first, slices, last)
        found: Tensor = checkpoint(vectors, first, slices, last, use_reentrant=False)
        return found

    def _vectors(self, first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        """Slices [n, d1 r], [n, r d2 r] and [n, r d3] -> [n, D]."""
        rank, (d1, d2, d3) = self.config.rank, self.dims
        left = first.view(-1, d1, rank) @ middle.view(-1, rank, d2 * rank)
        return (left.view(-1, d1 * d2, rank) @ last.view(-1, rank, d3)).flatten(1)


def _divided(ids: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    return torch.div(ids, by, rounding_mode="floor"), ids % by


def _start_in_tails(store: RowStore, std: float, generator: torch.Generator) -> None:
    """Numbers of a normal distribution that are beyond :data:`_TAIL` deviations, scaled to the deviation ``std``."""
    if store.device.type == "meta":
        return
    beyond = 0.5 * (1 - erf(_TAIL / sqrt(2)))
    scale = std / sqrt(1 + _TAIL * exp(-(_TAIL**2) / 2) / sqrt(2 * pi) / beyond)
    for start in range(0, store.num_rows, _ROWS_AT_A_TIME):
        rows = slice(start, min(start + _ROWS_AT_A_TIME, store.num_rows))
        shape = (rows.stop - start, store.row_dim)
        sizes = -torch.special.ndtri(beyond * (1 - torch.rand(shape, generator=generator, dtype=torch.float64)))
        signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
        store.write(rows, (scale * signs * sizes).to(store.dtype).to(store.device))


def tt_rec_family(vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions) -> Family[TTRecConfig]:
    """By rank, up to the first at which every vocabulary is kept whole; 32 without a budget."""
    sizes, (d1, d2, d3) = [v.num_embeddings for v in vocabularies], factors_of_dim(embedding_dim)

    def whole(rank: int) -> bool:
        digits = map(factors_of_size, sizes)
        taken = [a * d1 * rank + b * d2 * rank**2 + c * d3 * rank for a, b, c in digits]
        return all(n * embedding_dim <= numbers for n, numbers in zip(sizes, taken, strict=True))

    high = 1
    while not whole(high):
        high *= 2
    return Family(TTRecConfig, low=1, high=high, own=lambda: TTRecConfig(min(high, _OWN_RANK)), smallest="rank 1")


register(
    TableMethod(
        name="tt_rec",
        summary="the table as a product of three small cores, by the digits of an id",
        group="static encoding",
        paper="Yin et al., MLSys 2021",
        config=TTRecConfig,
        table=TTRecTable,
        family=tt_rec_family,
        fills="steps",
    )
)

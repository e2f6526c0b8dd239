"""The quotient-remainder trick: two small tables for every vocabulary, and a pair of rows that is unique for every id.

Shi et al., "Compositional Embeddings Using Complementary Partitions for Memory-Efficient Recommendation Systems", KDD
2020. An id reads the row ``id % c`` of one table and ``id // c`` of the other; their product, sum or both make its
vector. A vocabulary of n ids needs c + n / c rows, at least about twice the root of n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows
from rectab.tables.registry import TableMethod, register

__all__ = ["QRConfig", "QRTable", "divisor_within"]

Combine = Literal["product", "sum", "concat"]


@dataclass(frozen=True)
class QRConfig:
    """Attributes:
    divisors: c of every vocabulary, in schema order; 1 gives every id a row of its own.
    combine: what the two rows make: their ``product``, their ``sum``, or, at half the width, both (``concat``).
    """

    divisors: tuple[int, ...]
    combine: Combine = "product"

    def __post_init__(self) -> None:
        if min(self.divisors) < 1:
            raise ValueError(f"qr: divisors must be at least 1, got {self.divisors}")


class QRTable(EmbeddingTable[QRConfig]):
    """Two stores, of remainders and of quotients; vocabulary v owns a range of rows in each.

    Memory: (sum of c + ceil(num_embeddings / c)) rows of D (of D / 2 for ``concat``), and three integers a vocabulary.
    """

    divisor: Tensor
    first_remainder: Tensor
    first_quotient: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: QRConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if len(config.divisors) != len(self.vocabularies):
            raise ValueError(f"qr: divisors needs one number a vocabulary, got {config.divisors}")
        if config.combine == "concat" and embedding_dim % 2:
            raise ValueError(f"qr: combine='concat' needs an even embedding_dim, got {embedding_dim}")
        self.combine = config.combine  # type: ignore[misc]  # of this table, not of the class
        sizes = [v.num_embeddings for v in self.vocabularies]
        self.quotients = tuple(-(-n // c) for n, c in zip(sizes, config.divisors, strict=True))
        # As many remainders as the quotients need: 10 ids by 7 have 2 quotients, and so 5 remainders.
        self.remainders = tuple(-(-n // q) for n, q in zip(sizes, self.quotients, strict=True))
        self.register_buffer("divisor", self._integers(self.remainders))
        self.register_buffer("first_remainder", self._integers(_firsts(self.remainders)))
        self.register_buffer("first_quotient", self._integers(_firsts(self.quotients)))
        std = self.options.init_std
        each = {"product": std**0.5, "sum": std / 2**0.5, "concat": std}[config.combine]
        width = embedding_dim // 2 if config.combine == "concat" else embedding_dim
        generator = torch.Generator().manual_seed(self.options.seed)
        store = partial(self.options.row_store, row_dim=width, init_std=each, generator=generator)
        self.remainder, self.quotient = store(sum(self.remainders)), store(sum(self.quotients))
        if self.remainder.device.type != "meta":
            self._start_at_signs(each, generator)

    def _integers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.options.device)

    def _start_at_signs(self, size: float, generator: torch.Generator) -> None:
        """Remainders start as ``size`` with random signs: of a few normal ones, some dimensions would be large and some
        next to nothing."""
        signs = torch.randint(2, (self.remainder.num_rows, self.remainder.row_dim), generator=generator)
        self.remainder.write(slice(None), (size * (2.0 * signs - 1)).to(self.remainder.device))
        self.remainder.fit_steps()

    def reads(self, ids: Tensor, vocabulary: Tensor) -> list[tuple[RowStore, Tensor]]:
        divisor = self.divisor[vocabulary]
        remainder = self.first_remainder[vocabulary] + ids % divisor
        quotient = self.first_quotient[vocabulary] + torch.div(ids, divisor, rounding_mode="floor")
        return [(self.remainder, remainder.unsqueeze(-1)), (self.quotient, quotient.unsqueeze(-1))]

    def addresses(self) -> tuple[Address, ...]:
        return (
            *(Address(v, 0, "remainder", *at, "mod") for v, at in enumerate(_ranges(self.remainders))),
            *(Address(v, 1, "quotient", *at, "div") for v, at in enumerate(_ranges(self.quotients))),
        )


def _ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(first row, rows) of every vocabulary."""
    return list(zip(_firsts(sizes), sizes, strict=True))


def _firsts(sizes: Sequence[int]) -> list[int]:
    """The first row of every vocabulary."""
    return list(accumulate(sizes[:-1], initial=0))


def divisor_within(num_ids: int, rows: int) -> int:
    """The smallest divisor c with ``c + ceil(num_ids / c) <= rows``; the one that needs fewest rows if none has."""
    root = math.isqrt(num_ids)
    if root + -(-num_ids // max(root, 1)) > rows:
        return max(root, 1)
    # c (rows - c) >= n: the smaller root, and from there at most a few steps of rounding up.
    start = (rows - math.isqrt(max(rows * rows - 4 * num_ids, 0))) // 2
    divisor = max(1, start - 1)
    while divisor + -(-num_ids // divisor) > rows:
        divisor += 1
    return divisor


def qr_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    combine: Combine = "product",
    whole_below: int = 100,
) -> Family[QRConfig]:
    """By rows of all vocabularies together, shared out as those of the hashed table are; each divisor is the smallest
    that keeps to its share, or the one that needs fewest rows."""
    if whole_below < 1:
        raise ValueError(f"qr: whole_below must be at least 1, got {whole_below}")
    sizes = [v.num_embeddings for v in vocabularies]
    most = [n + 1 for n in sizes]  # a row each, and the one of the remainder

    def config_of(total: int) -> QRConfig:
        rows = allocate_rows(most, total, whole_below + 1)
        return QRConfig(tuple(map(divisor_within, sizes, rows)), combine)

    return Family(
        config_of, low=len(sizes), high=sum(most), smallest="about twice the root of its ids for every vocabulary"
    )


register(
    TableMethod(
        name="qr",
        summary="a pair of rows an id: by remainder and by quotient",
        group="static encoding",
        paper="Shi et al., KDD 2020",
        config=QRConfig,
        table=QRTable,
        family=qr_family,
        fills="steps",
        revision=2,  # 2: rows are shared out as those of the hashed table are, small vocabularies first
    )
)

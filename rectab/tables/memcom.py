"""MEmCom: ids share hashed rows, and each multiplies its row by a number of its own.

Pansare et al., "Learning Compressed Embeddings for On-Device Inference", MLSys 2022. The vector of id i is ``U[h(i)] *
v[i]``, or ``U[h(i)] * v[i] + w[i]`` with a bias: rows are shared, and no two ids need have the same vector. The numbers
are what it cannot do without: 4 bytes an id (8 with a bias), 1 / D of the full table.

The hash is mixed where the paper takes ``i mod m``. Multipliers are held as what they differ from 1 by, so that L2
draws them to 1, where a row is shared as it is, and not to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["MEmComConfig", "MEmComTable"]


@dataclass(frozen=True)
class MEmComConfig:
    """Attributes:
    num_rows: shared rows of every vocabulary, in schema order.
    bias: whether each id has a number that is added to all elements of its vector, too.
    seed: of the hash.
    """

    num_rows: tuple[int, ...]
    bias: bool = False
    seed: int = 0


class MEmComTable(RangeTable[MEmComConfig]):
    """Shared rows as in the hashed table, and a store of one number (with a bias: two) for every id.

    Memory: (sum of num_rows) * (bytes of a row of D) + (sum of num_embeddings) * (bytes of a row of 1 or 2), and four
    integers a vocabulary.
    """

    first_id: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: MEmComConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, config.num_rows, config.seed)
        sizes = [v.num_embeddings for v in self.vocabularies]
        first = torch.tensor(list(accumulate(sizes[:-1], initial=0)), dtype=torch.int64, device=self.options.device)
        self.register_buffer("first_id", first)
        self.factor = self.options.row_store(sum(sizes), 2 if config.bias else 1, init_std=0.0)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows = super().lookup(ids, vocabulary)
        own = self.factor(self.first_id[vocabulary] + ids)
        return rows * (1 + own[..., :1]) + own[..., 1:] if self.config.bias else rows * (1 + own)


def memcom_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    bias: bool = False,
    whole_below: int = 100,
    seed: int = 0,
) -> Family[MEmComConfig]:
    """By shared rows of all vocabularies together, shared out as those of the hashed table are."""
    if whole_below < 1:
        raise ValueError(f"memcom: whole_below must be at least 1, got {whole_below}")
    sizes = [v.num_embeddings for v in vocabularies]
    return Family(
        lambda total: MEmComConfig(allocate_rows(sizes, total, whole_below), bias, seed),
        low=len(sizes),
        high=sum(sizes),
        smallest="one row a vocabulary and a number an id",
    )


register(
    TableMethod(
        name="memcom",
        summary="hashed rows, times one number an id",
        group="static encoding",
        paper="Pansare et al., MLSys 2022",
        config=MEmComConfig,
        table=MEmComTable,
        family=memcom_family,
    )
)

"""The hashing trick, per vocabulary: every vocabulary is hashed into a range of rows of its own.

Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009, with a mixed hash instead of ``id
mod m``, rows in proportion to the vocabulary, and small vocabularies kept whole. It is the baseline ("per-feature
hash") of the Unified Embedding paper's Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["HashedConfig", "HashedTable", "allocate_rows"]


@dataclass(frozen=True)
class HashedConfig:
    """Attributes:
    num_rows: rows of every vocabulary, in schema order.
    seed: of the hash.
    """

    num_rows: tuple[int, ...]
    seed: int = 0


class HashedTable(RangeTable[HashedConfig]):
    """Every vocabulary hashed into its own range of rows; small ones whole.

    Any id of a hashed vocabulary is served, also one never seen in training (it shares the row it hashes to). An id
    outside a vocabulary that is kept whole raises IndexError.

    Memory: (sum of num_rows) * (bytes of a row) + 16 bytes a vocabulary.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: HashedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, config.num_rows, config.seed)


def allocate_rows(sizes: Sequence[int], total: int, whole_below: int) -> tuple[int, ...]:
    """Share ``total`` rows out in proportion to vocabulary sizes, small vocabularies first.

    A vocabulary of at most ``whole_below`` ids gets a row an id, and larger ones never get fewer rows than that; but
    what is given this way is never more than half of all rows (the limit falls until it is not). No vocabulary gets
    more rows than ids, and all of ``total`` is used if there are ids enough.

    Args:
        sizes: ids of every vocabulary.
        total: rows there are, at least one a vocabulary.
        whole_below: see above; 1 or more.
    """
    ids = np.asarray(sizes, dtype=np.int64)
    if total < ids.size:
        raise ValueError(f"{ids.size} vocabularies need at least as many rows, got {total}")
    if total >= ids.sum():
        return tuple(int(n) for n in ids)
    floor = max(1, whole_below)
    while floor > 1 and np.minimum(ids, floor).sum() > total // 2:
        floor -= 1
    low = np.minimum(ids, floor).astype(np.float64)
    lower, upper = 0.0, 1.0
    for _ in range(60):
        ratio = (lower + upper) / 2
        fits = np.clip(ratio * ids, low, ids).sum() <= total
        lower, upper = (ratio, upper) if fits else (lower, ratio)
    exact = np.clip(lower * ids, low, ids)
    rows = np.floor(exact + 1e-9).astype(np.int64)
    left = int(total - rows.sum())
    # Largest remainders first; ties go to the earlier vocabulary.
    for index in np.argsort(-(exact - rows), kind="stable"):
        if left == 0:
            break
        if rows[index] < ids[index]:
            rows[index] += 1
            left -= 1
    return tuple(int(n) for n in rows)


def hashed_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    whole_below: int = 100,
    seed: int = 0,
) -> Family[HashedConfig]:
    """Rows of all vocabularies together, shared out by :func:`allocate_rows`; all ids' rows without a budget."""
    if whole_below < 1:
        raise ValueError(f"hashed: whole_below must be at least 1, got {whole_below}")
    sizes = [v.num_embeddings for v in vocabularies]
    return Family(
        lambda total: HashedConfig(allocate_rows(sizes, total, whole_below), seed),
        low=len(sizes),
        high=sum(sizes),
        smallest="one row a vocabulary",
    )


register(
    TableMethod(
        name="hashed",
        summary="every vocabulary hashed into its own rows, small ones whole",
        group="static encoding",
        paper="Weinberger et al., ICML 2009",
        config=HashedConfig,
        table=HashedTable,
        family=hashed_family,
        serves_any_id=True,
    )
)

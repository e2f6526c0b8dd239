"""How many ids share a row: what a hashed table is expected to cost, before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable

__all__ = ["Collisions", "expected_collisions", "squeezed"]

FEW = 100
"""A vocabulary of so few values is hardly worth compressing: each of them is met often."""


@dataclass(frozen=True)
class Collisions:
    """Expected sharing, averaged over lookups (ids weighted by their training counts) and over chunks.

    Attributes:
        intra: other ids of the same vocabulary expected on the row that a lookup reads.
        inter: ids of other vocabularies expected on it.
        shared: share of lookups whose row some other id also uses.
        by_vocabulary: (intra, inter) of every vocabulary.
    """

    intra: float
    inter: float
    shared: float
    by_vocabulary: dict[str, tuple[float, float]]


def expected_collisions(table: EmbeddingTable) -> Collisions | None:
    """Of a table that says where lookups land (``EmbeddingTable.addresses``); None for any other.

    An id of vocabulary u with a range of m rows lands on a given row of it with probability 1/m, so the number expected
    on the row of a lookup in range r is the sum over other ids of ``overlap / (rows of r * m)``. The same formula
    serves chunks; another chunk of the same id is no collision. Works on tables of the meta device.
    """
    ranges = table.addresses()
    if not ranges:
        return None
    by_vocabulary: dict[str, tuple[float, float]] = {}
    weights, intra_of, inter_of, shared_of = [], [], [], []
    for index, vocabulary in enumerate(table.vocabularies):
        own = [r for r in ranges if r.vocabulary == index]
        intra = float(np.mean([_expected(r, own, table.vocabularies, index) for r in own]))
        others = [o for o in ranges if o.vocabulary != index]
        inter = float(np.mean([_expected(r, others, table.vocabularies, index) for r in own]))
        by_vocabulary[vocabulary.name] = (intra, inter)
        weights.append(_traffic(vocabulary))
        intra_of.append(intra)
        inter_of.append(inter)
        # Each other id hits the row independently and rarely, so the number of hits is close to Poisson.
        shared_of.append(1 - np.exp(-(intra + inter)))
    total = np.asarray(weights) / np.sum(weights)
    return Collisions(
        float(total @ intra_of), float(total @ inter_of), float(total @ np.asarray(shared_of)), by_vocabulary
    )


def squeezed(table: EmbeddingTable) -> list[str]:
    """Vocabularies of few values that get fewer rows than values, each with both numbers (``gender: 5 in 3 rows``).

    Only where all lookups of a vocabulary land in ranges too small for it; works on tables of the meta device.
    """
    rows: dict[int, int] = {}
    for address in table.addresses() or ():
        rows[address.vocabulary] = max(rows.get(address.vocabulary, 0), address.rows)
    few = [(v, rows[i]) for i, v in enumerate(table.vocabularies) if i in rows and v.num_embeddings <= FEW]
    return [f"{v.name}: {v.num_embeddings} in {count} rows" for v, count in few if count < v.num_embeddings]


def _expected(own: Address, others: Sequence[Address], vocabularies: Sequence[Vocabulary], index: int) -> float:
    expected = 0.0
    for other in others:
        if other.store != own.store:
            continue
        if other.vocabulary == index and other.by != "hash":  # ids are dealt out evenly, this one among them
            expected += max(vocabularies[index].num_embeddings / other.rows - 1, 0.0) if other is own else 0.0
            continue
        overlap = min(own.first_row + own.rows, other.first_row + other.rows)
        overlap -= max(own.first_row, other.first_row)
        ids = vocabularies[other.vocabulary].num_embeddings - (other.vocabulary == index)
        expected += max(overlap, 0) * ids / (own.rows * other.rows)
    return expected


def _traffic(vocabulary: Vocabulary) -> float:
    return float(vocabulary.num_embeddings if vocabulary.counts is None else vocabulary.counts.sum())

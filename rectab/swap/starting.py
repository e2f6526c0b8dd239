"""Initial values of a swapped table: every vocabulary starts with the std of the host table it takes the place of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rectab.tables import EmbeddingTable

__all__ = ["own_rows", "scale_rows"]


def own_rows(table: EmbeddingTable) -> bool:
    """Whether no row is read by two vocabularies, so that rows can start at the scale of their vocabulary."""
    ranges = sorted((a.store, a.first_row, a.first_row + a.rows, a.vocabulary) for a in table.addresses())
    end_of: dict[tuple[str, int], int] = {}  # last row so far, by (store, vocabulary)
    for store, first, end, vocabulary in ranges:
        if any(first < other for (s, v), other in end_of.items() if s == store and v != vocabulary):
            return False
        end_of[store, vocabulary] = max(end, end_of.get((store, vocabulary), 0))
    return bool(ranges)


@torch.no_grad()
def scale_rows(table: EmbeddingTable, scales: Sequence[float]) -> None:
    """Multiplies the vectors of every vocabulary by its entry of ``scales``; for tables with :func:`own_rows`."""
    factors = 1 + max(a.chunk for a in table.addresses()) if table.combine == "product" else 1
    stores = dict(table.row_stores())
    for store, first, end, vocabulary in {
        (a.store, a.first_row, a.first_row + a.rows, a.vocabulary) for a in table.addresses()
    }:
        if scales[vocabulary] != 1.0:
            rows = slice(first, end)
            stores[store].write(rows, stores[store].read(rows) * scales[vocabulary] ** (1 / factors))

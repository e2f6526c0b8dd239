"""How often each row of a table is read in training: what DIN's mini-batch aware penalty divides by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.tables.base import EmbeddingTable

__all__ = ["row_counts"]

_CHUNK_IDS = 1 << 16


def row_counts(table: EmbeddingTable, id_counts: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The sum of ``id_counts`` over the ids that read each row; an id counts once on a row, however it got there.

    It asks the table itself: ids are looked up, and what the row stores are asked for is counted. So it holds for any
    table, also one that shares rows between ids and vocabularies or has pruned some. An id of count c is looked up once
    for every binary digit of c that is 1, so the cost follows the number of ids, not the counts.

    Args:
        table: any table; its weights are not touched.
        id_counts: by vocabulary name, int64 [num_embeddings], in the order of ``Vocabulary.known_ids``.

    Returns:
        By the name of each trained row store, int64 [num_rows].

    Raises:
        ValueError: the counts of a vocabulary are missing or have another shape; or ids change rows as they come.
    """
    if table.ids_move:
        raise ValueError(f"{table.method}: ids change rows as they come, so a mini-batch aware penalty has no counts")
    totals = {name: torch.zeros(s.num_rows, dtype=torch.int64) for name, s in table.row_stores()}
    found: dict[str, Tensor] = {}
    # Tables that draw at random while training must not move the generator of the run.
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _watched(table, found):
        for index, vocabulary in enumerate(table.vocabularies):
            counts = id_counts.get(vocabulary.name)
            if counts is None or counts.shape != (vocabulary.num_embeddings,):
                raise ValueError(f"id_counts[{vocabulary.name!r}] must have shape ({vocabulary.num_embeddings},)")
            ids = vocabulary.known_ids()
            for bit in range(int(counts.max(initial=0)).bit_length()):
                for chunk in _chunks(ids[(counts >> bit) & 1 == 1]):
                    found.clear()
                    table(torch.from_numpy(chunk), index)
                    for name, reads in found.items():
                        totals[name] += reads << bit
    return totals


def _chunks(ids: np.ndarray) -> Iterator[np.ndarray]:
    return (ids[start : start + _CHUNK_IDS] for start in range(0, len(ids), _CHUNK_IDS))


@contextmanager
def _watched(table: EmbeddingTable, found: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts, every lookup adds to ``found``, by store, how many ids read each row: int64 [num_rows]."""
    stores = dict(table.row_stores())
    held = {name: store.before_lookup for name, store in stores.items()}
    try:
        for name, store in stores.items():
            store.before_lookup = _counter(name, store, found)
        yield
    finally:
        for name, store in stores.items():
            store.before_lookup = held[name]


def _counter(name: str, store: RowStore, found: dict[str, Tensor]) -> Callable[[Tensor], None]:
    def count(rows: Tensor) -> None:
        reads = torch.bincount(_once_an_id(rows.detach().cpu()), minlength=store.num_rows)
        found[name] = found[name] + reads if name in found else reads

    count.asks_for_every_id = True  # type: ignore[attr-defined]
    return count


def _once_an_id(rows: Tensor) -> Tensor:
    """int64 [n] or [n, k], the k rows of every id -> int64 [m]: an id's row that comes twice is given once."""
    if rows.dim() < 2:
        return rows.reshape(-1)
    ordered = rows.sort(dim=-1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return ordered[first]

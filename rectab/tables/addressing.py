"""Where the lookups of a table land, as data: what collisions, starts from trained vectors and torchrec read.

Whoever asks where an id's rows are reads :class:`Address`; nobody outside the tables asks which class a table is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rectab.ops import hash_rows

__all__ = ["Address", "rows_of"]


@dataclass(frozen=True)
class Address:
    """Where the lookups of one chunk of one vocabulary land.

    Attributes:
        vocabulary: index of the vocabulary.
        chunk: index of the lookup; a method that looks up k rows for an id has chunks 0..k-1.
        store: name of the row store in the table.
        first_row: first row of the range.
        rows: rows in the range.
        by: ``hash`` spreads ids over the range; ``id`` gives each its own row; ``mod`` takes ``id % rows``; ``div``
            takes ``id // ceil(num_embeddings / rows)``.
        salt: of the hash; None for the others.
    """

    vocabulary: int
    chunk: int
    store: str
    first_row: int
    rows: int
    by: Literal["hash", "id", "mod", "div"]
    salt: int | None = None


def rows_of(address: Address, ids: Tensor, num_embeddings: int) -> Tensor:
    """int64 [*] ids of the address's vocabulary, which has ``num_embeddings`` -> int64 [*] rows of its store."""
    if address.by == "hash":
        assert address.salt is not None
        rows = hash_rows(ids, torch.tensor(address.salt, device=ids.device), address.rows)
    elif address.by == "mod":
        rows = ids % address.rows
    elif address.by == "div":
        rows = ids // -(-num_embeddings // address.rows)
    else:
        rows = ids
    return address.first_row + rows

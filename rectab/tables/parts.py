"""Lookups that go different ways by vocabulary: every id is looked up once, in the part of the table it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rectab.ops.dispatch import is_eager

__all__ = ["Lookup", "in_parts", "multiplied"]

Lookup = Callable[[Tensor, Tensor], Tensor]


def in_parts(ids: Tensor, vocabulary: Tensor, part_of: Tensor, lookups: Sequence[Lookup]) -> Tensor:
    """Vectors of ids, each by the lookup of its vocabulary's part.

    Args:
        ids: int64 [*].
        vocabulary: int64, broadcastable to ``ids``.
        part_of: int [V], the part of every vocabulary, each of which has some.
        lookups: of the parts: int64 [n] ids and int64 [n] vocabularies of the part -> [n, D].

    Returns:
        [*, D].
    """
    shape = ids.shape
    ids, vocabulary = ids.reshape(-1), vocabulary.expand(shape).reshape(-1)
    part = part_of[vocabulary]
    if not is_eager(ids, vocabulary):
        return _shaped(_masked(ids, vocabulary, part, part_of, lookups), shape)
    places = [(part == p).nonzero().squeeze(1) for p in range(len(lookups))] if len(lookups) > 1 else []
    for found, lookup in zip(places, lookups, strict=False):
        if found.numel() == ids.numel():
            return _shaped(lookup(ids, vocabulary), shape)
    if not places:
        return _shaped(lookups[0](ids, vocabulary), shape)
    vectors = [lookup(ids[at], vocabulary[at]) for at, lookup in zip(places, lookups, strict=True) if at.numel()]
    together, order = torch.cat(vectors), torch.cat(places)
    return _shaped(torch.empty_like(together).index_copy(0, order, together), shape)


def _shaped(vectors: Tensor, shape: torch.Size) -> Tensor:
    return vectors.reshape(*shape, vectors.shape[-1])


def _masked(ids: Tensor, vocabulary: Tensor, part: Tensor, part_of: Tensor, lookups: Sequence[Lookup]) -> Tensor:
    """In shapes that do not depend on the ids, for exports: every part looks for all ids, and for id 0 of a vocabulary
    of its own in place of another part's."""
    result = None
    for p, lookup in enumerate(lookups):
        mine = part == p
        some = (part_of == p).to(torch.int8).argmax()
        vectors = lookup(ids.where(mine, 0), vocabulary.where(mine, some))
        result = vectors if result is None else vectors.where(mine.unsqueeze(-1), result)
    assert result is not None
    return result


def multiplied(rows: Tensor, which: Tensor, matrices: Tensor) -> Tensor:
    """Every row times the matrix of its vocabulary.

    Args:
        rows: [n, k].
        which: int64 [n], of the matrices.
        matrices: [V, k, d].

    Returns:
        [n, d].
    """
    matrices = matrices.to(rows.dtype)
    if not is_eager(rows, which):
        return (rows.unsqueeze(1) @ matrices[which]).squeeze(1)
    counts = torch.bincount(which, minlength=matrices.shape[0]).tolist()
    each = matrices.unbind()
    if rows.shape[0] in counts:
        return rows @ each[counts.index(rows.shape[0])]
    order = which.argsort(stable=True)
    products = [part @ matrix for part, matrix in zip(rows[order].split(counts), each, strict=True)]
    together = torch.cat(products)
    return torch.empty_like(together).index_copy(0, order, together)

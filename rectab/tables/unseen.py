"""What a table does with an id outside its vocabulary; one rule for every method and every device.

The rule is applied to ids before a method sees them, so no method has to know it. A hashed vocabulary has no outside:
any int64 is an id, and it is always hashed. A graph that was compiled, traced or exported has an assertion in the place
of IndexError, where its format knows one (``.pt2``, not ONNX). An id outside never reads another row: it reads
zeros.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, hash_rows, salt_of
from rectab.ops.dispatch import holds, in_graph, is_eager
from rectab.schema import Vocabulary

__all__ = [
    "Unseen",
    "check_unseen",
    "check_vocabulary",
    "guard_outside",
    "place_unseen",
    "refuse_outside",
    "vocabulary_tensor",
]

Unseen = Literal["hash", "shared", "zero", "error"]
"""``hash``: an id outside reads the vector of an id inside, chosen by a hash. ``shared``: it reads id 0, which a fitted
vocabulary keeps for "unseen or rare". ``zero``: it reads zeros and trains nothing. ``error``: IndexError."""


def check_unseen(unseen: str | None) -> None:
    """Raises ValueError for an unknown policy."""
    if unseen is not None and unseen not in get_args(Unseen):
        raise ValueError(f"unseen must be one of {', '.join(get_args(Unseen))} or None, got {unseen!r}")


@lru_cache(maxsize=256)
def _salt(name: str) -> int:
    return salt_of(0, name, "unseen")


def _per_id(values: Sequence[int], vocabulary: Tensor | int, device: torch.device) -> Tensor | int:
    """The value of each id's vocabulary: a number, or int64 shaped like ``vocabulary``."""
    if isinstance(vocabulary, int):
        return values[vocabulary]
    return torch.tensor(values, dtype=torch.int64, device=device)[vocabulary]


def check_vocabulary(vocabulary: Tensor | int, count: int) -> Tensor | int:
    """Raises IndexError unless every index of a vocabulary is in ``0 .. count - 1``; returns the indices."""
    if not isinstance(vocabulary, Tensor):
        if not 0 <= operator.index(vocabulary) < count:
            raise IndexError(f"vocabulary {vocabulary} is not in 0..{count - 1}")
        return operator.index(vocabulary)
    if vocabulary.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"vocabulary indices must be int64 or int32, got {vocabulary.dtype}")
    if is_eager(vocabulary) and vocabulary.numel():
        low, high = vocabulary.aminmax()
        if not holds((low >= 0) & (high < count)):
            raise IndexError(f"vocabulary {int(low if low < 0 else high)} is not in 0..{count - 1}")
    return vocabulary


def refuse_outside(ids: Tensor, vocabulary: Tensor | int, vocabularies: Sequence[Vocabulary]) -> None:
    """Raises IndexError for an id outside its fitted vocabulary; arguments as for :func:`place_unseen`."""
    if not is_eager(ids) or ids.numel() == 0:
        return
    if isinstance(vocabulary, int):
        low, high = ids.aminmax()
        if vocabularies[vocabulary].hashed or (low >= 0 and high < vocabularies[vocabulary].num_embeddings):
            return
    outside = _outside(ids, vocabulary, vocabularies)
    if bool(outside.any()):
        raise IndexError(_message(ids, vocabulary, outside, vocabularies))


def guard_outside(ids: Tensor, vocabulary: Tensor | int, vocabularies: Sequence[Vocabulary]) -> tuple[Tensor, Tensor]:
    """What :func:`refuse_outside` is where nobody can look; arguments and results as for :func:`place_unseen`."""
    outside = _outside(ids, vocabulary, vocabularies)
    inside = ids.masked_fill(outside, 0)
    if torch.jit.is_tracing():  # which drops assertions: an index out of range takes their place
        inside = inside + ids.new_zeros(1).index_select(0, outside.any().long().reshape(1))
    elif in_graph():
        torch._assert_async(~outside.any(), "an id is outside its vocabulary")
    return inside, outside


def place_unseen(
    ids: Tensor, vocabulary: Tensor | int, vocabularies: Sequence[Vocabulary], unseen: Literal["hash", "shared", "zero"]
) -> tuple[Tensor, Tensor]:
    """Ids that all lie in their vocabulary, and which of them did not.

    Args:
        ids: int64 [*].
        vocabulary: index of each id's vocabulary: an index, or int64 broadcastable to ``ids``.
        vocabularies: the table's.
        unseen: the policy; for ``error`` there is :func:`refuse_outside`.

    Returns:
        int64 [*] and bool [*].
    """
    outside = _outside(ids, vocabulary, vocabularies)
    if unseen == "hash":
        salts = _per_id([_salt(v.name) for v in vocabularies], vocabulary, ids.device)
        bounds = _per_id([min(v.num_embeddings, MAX_ROWS) for v in vocabularies], vocabulary, ids.device)
        return torch.where(outside, hash_rows(ids, salts, bounds), ids), outside
    return ids.masked_fill(outside, 0), outside


def _outside(ids: Tensor, vocabulary: Tensor | int, vocabularies: Sequence[Vocabulary]) -> Tensor:
    """bool [*]: which ids their vocabulary, if it is fitted, does not have."""
    sizes = _per_id([-1 if v.hashed else v.num_embeddings for v in vocabularies], vocabulary, ids.device)
    return ((ids < 0) | (ids >= sizes)) & torch.as_tensor(sizes >= 0, device=ids.device)


def _message(ids: Tensor, vocabulary: Tensor | int, outside: Tensor, vocabularies: Sequence[Vocabulary]) -> str:
    first = int(ids[outside][0])
    index = vocabulary if isinstance(vocabulary, int) else int(vocabulary.expand_as(ids)[outside][0])
    found = vocabularies[index]
    return (
        f"id {first} is outside vocabulary {found.name!r}, which has ids 0..{found.num_embeddings - 1}; map it before "
        "the lookup, or choose unseen='hash', 'shared' or 'zero'"
    )


def vocabulary_tensor(vocabulary: int, ids: Tensor) -> Tensor:
    """The index as a tensor that is broadcastable to ``ids``."""
    if is_eager(ids) or in_graph():
        return torch.full((), vocabulary, device=ids.device)  # filled there: a copy from the host would be waited for
    return torch.full_like(ids, vocabulary)  # indexing by a scalar would ask a meta or fake tensor for its value

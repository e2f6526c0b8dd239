"""One vocabulary of a table under the contracts of ``nn.Embedding`` and ``nn.EmbeddingBag``.

Neither view has a ``weight``: a host that does ``nn.init.normal_(module.weight)`` on a materialised copy would change
nothing without a word. ``materialize()`` gives the vectors of all known ids instead.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from rectab.ops import segment_sum
from rectab.ops.dispatch import is_eager

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable

__all__ = ["BagView", "EmbeddingView", "pool"]


_FLOATS = 1 << 18  # of vectors that are pooled at a time


class _View(nn.Module):
    def __init__(self, table: EmbeddingTable, vocabulary: int, padding_idx: int | None) -> None:
        super().__init__()
        self.table = table
        self.vocabulary = vocabulary
        size = self.num_embeddings
        if padding_idx is not None and not -size <= padding_idx < size:
            raise ValueError(f"padding_idx {padding_idx} is outside the vocabulary's {size} ids")
        self.padding_idx = padding_idx + size if padding_idx is not None and padding_idx < 0 else padding_idx

    @property
    def num_embeddings(self) -> int:
        return self.table.vocabularies[self.vocabulary].num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.table.embedding_dim

    def vectors(self, input: Tensor) -> Tensor:
        """int [*] -> float [*, D]; padding gives zeros and trains nothing."""
        return self.table(input, self.vocabulary, None if self.padding_idx is None else input == self.padding_idx)

    @torch.no_grad()
    def materialize(self) -> Tensor:
        """float [num_embeddings, D]: a copy of the vectors of all known ids."""
        ids = torch.from_numpy(self.table.vocabularies[self.vocabulary].known_ids())
        return self.vectors(ids.to(self.table.device))


class EmbeddingView(_View):
    """One vocabulary as an ``nn.Embedding``.

    Args:
        table: the table whose rows it shares.
        vocabulary: index of the vocabulary.
        padding_idx: id whose vector is zero and is not trained.
    """

    def forward(self, input: Tensor) -> Tensor:
        """int64 or int32 [*] -> float [*, D]."""
        return self.vectors(input)


class BagView(_View):
    """One vocabulary as an ``nn.EmbeddingBag`` with mode ``sum`` or ``mean``.

    Weighted means are supported (torch refuses them): sum(w * e) / sum(w). Empty bags give zeros; ``padding_idx``
    counts neither in sums nor in means, as in torch. ``include_last_offset`` with 2-D input is refused.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        vocabulary: int,
        mode: Literal["sum", "mean"],
        padding_idx: int | None = None,
        include_last_offset: bool = False,
    ) -> None:
        super().__init__(table, vocabulary, padding_idx)
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode must be 'sum' or 'mean', got {mode!r}")
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """1-D ids with offsets [B] (or [B + 1] if ``include_last_offset``), or 2-D ids [B, L] -> float [B, D]."""
        if per_sample_weights is not None and per_sample_weights.shape != input.shape:
            raise ValueError(
                f"per_sample_weights {tuple(per_sample_weights.shape)} differ from input {tuple(input.shape)}"
            )
        full_offsets = self._full_offsets(input, offsets)
        values = input.reshape(-1)
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        if self.padding_idx is not None:
            kept = (values != self.padding_idx).to(self.table(values[:0], self.vocabulary).dtype)
            weights = kept if weights is None else weights * kept
        parts = [] if torch.is_grad_enabled() else _parts(values, full_offsets, _FLOATS // self.embedding_dim)
        if len(parts) < 2:
            return pool(self.vectors(values), full_offsets, self.mode, weights)
        # The vectors of all values are never held at once, and those that are lie in the caches when they are added.
        pooled = []
        for first, last in parts:
            own = slice(int(full_offsets[first]), int(full_offsets[last]))
            offsets, part = full_offsets[first : last + 1] - own.start, None if weights is None else weights[own]
            pooled.append(pool(self.vectors(values[own]), offsets, self.mode, part))
        return torch.cat(pooled)

    def _full_offsets(self, input: Tensor, offsets: Tensor | None) -> Tensor:
        if input.dim() == 2:
            if offsets is not None or self.include_last_offset:
                raise ValueError("2-D input has fixed bags: give neither offsets nor include_last_offset")
            return torch.arange(input.shape[0] + 1, device=input.device) * input.shape[1]
        if input.dim() != 1 or offsets is None:
            raise ValueError("give 1-D ids with offsets, or 2-D ids without")
        if self.include_last_offset:
            return offsets
        # Not new_tensor([...]): an exported graph would keep the number of ids that it was traced with.
        return torch.cat([offsets, offsets.new_full((1,), input.shape[0])])


def _parts(values: Tensor, offsets: Tensor, most: int) -> list[tuple[int, int]]:
    """(first bag, the one after the last) of parts that have at most so many values, or are one bag. None in graphs and
    on other devices than the CPU; none of offsets that do not rise from 0 to the end, which are refused later."""
    if not is_eager(values, offsets) or values.device.type != "cpu" or len(values) <= most or len(offsets) < 3:
        return []
    held, borders = offsets.numpy(), [0]
    if held[0] != 0 or held[-1] != len(values) or (held[1:] < held[:-1]).any():
        return []
    while borders[-1] < len(held) - 1:
        following = int(held.searchsorted(held[borders[-1]] + most, side="right")) - 1
        borders.append(max(following, borders[-1] + 1))
    return list(pairwise(borders))


def pool(vectors: Tensor, offsets: Tensor, mode: Literal["sum", "mean"], weights: Tensor | None = None) -> Tensor:
    """[sum L, D], int64 offsets [B + 1], weights [sum L] -> [B, D]; an empty bag (or one of weight 0) gives zeros."""
    total = segment_sum(vectors, offsets, weights)
    if mode == "sum":
        return total
    if weights is None:
        mass = (offsets[1:] - offsets[:-1]).to(vectors.dtype).unsqueeze(-1)
    else:
        mass = segment_sum(weights.to(vectors.dtype).unsqueeze(-1), offsets)
    return torch.where(mass != 0, total / mass.where(mass != 0, 1), 0.0)

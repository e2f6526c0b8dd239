"""Histories of different lengths, without padding: cutting them, and softmax within each. Sums are in rectab.ops."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rectab.batch import Jagged
from rectab.ops import segment_sum, spread_bags
from rectab.ops.bags import bag_of_each
from rectab.ops.dispatch import in_graph

__all__ = ["Segments", "most_recent", "segment_softmax"]


class Segments:
    """Which positions belong to which row.

    Attributes:
        offsets: int64 [B + 1].
        ids: int64 [P], the row of every position.
    """

    def __init__(self, jagged: Jagged) -> None:
        self.offsets = jagged.offsets
        self._jagged = jagged

    @cached_property
    def ids(self) -> Tensor:
        if in_graph():
            return bag_of_each(self._jagged.values.shape[0], self.offsets)
        return self._jagged.segment_ids()

    def __len__(self) -> int:
        """Number of rows B."""
        return self.offsets.numel() - 1


def most_recent(jagged: Jagged, length: int | None) -> Jagged:
    """Each row cut to its last ``length`` elements; the very same object if no row is longer."""
    if length is None or (jagged.cut_to is not None and jagged.cut_to <= length):
        return jagged
    lengths = jagged.lengths()
    if not lengths.numel() or int(lengths.max()) <= length:
        return jagged
    kept = lengths.clamp(max=length)
    offsets = torch.zeros_like(jagged.offsets)
    torch.cumsum(kept, 0, out=offsets[1:])
    shift = jagged.offsets[1:] - kept - offsets[:-1]
    total = int(offsets[-1])
    source = torch.arange(total, device=offsets.device) + torch.repeat_interleave(shift, kept, output_size=total)
    return Jagged(jagged.values[source], offsets)


def segment_softmax(scores: Tensor, segments: Segments) -> Tensor:
    """float [P] -> [P]: softmax within every row, stable for any finite scores."""
    if in_graph():  # a reduction by segments has no symbolic shape
        lowest = scores.new_full((segments.offsets.numel() - 1,), float("-inf"))
        highest = lowest.scatter_reduce(0, segments.ids, scores.detach(), "amax")
    elif not scores.numel():
        return scores
    else:
        highest = torch.segment_reduce(scores.detach(), "max", offsets=segments.offsets, unsafe=True)
    exponentials = torch.exp(scores - highest.index_select(0, segments.ids))
    totals = segment_sum(exponentials.unsqueeze(1), segments.offsets)
    return exponentials / spread_bags(totals, segments.offsets, scores.shape[0]).squeeze(1)

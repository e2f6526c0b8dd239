"""Operations on rows of different lengths, without padding: sum, softmax, expand.

Backward passes are written out because torch's own scatter a row at a time on CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rectab.batch import Jagged

__all__ = ["Segments", "expand_rows", "most_recent", "segment_softmax", "segment_sum"]


class Segments:
    """Which positions belong to which row.

    Attributes:
        offsets: int64 [B + 1].
        ids: int64 [P], the row of every position.
        positions: int64 [P], 0 .. P - 1.
    """

    def __init__(self, jagged: Jagged) -> None:
        self.offsets = jagged.offsets
        self.ids = jagged.segment_ids()
        self.positions = torch.arange(self.ids.numel(), device=self.ids.device)

    def __len__(self) -> int:
        """Number of rows B."""
        return self.offsets.numel() - 1


def most_recent(jagged: Jagged, length: int | None) -> Jagged:
    """Each row cut to its last ``length`` elements; the very same object if no row is longer."""
    if length is None:
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


def segment_sum(values: Tensor, segments: Segments, weights: Tensor | None = None) -> Tensor:
    """Sum of ``weights * values`` in every row; an empty row gives exactly zero.

    Args:
        values: float [P, C].
        segments: of P positions in B rows.
        weights: float [P]; None for ones.

    Returns:
        float [B, C].
    """
    return _SegmentSum.apply(values, weights, segments)


def expand_rows(rows: Tensor, segments: Segments) -> Tensor:
    """float [B, C] -> [P, C]: every position gets its row's vector."""
    return _ExpandRows.apply(rows, segments)


def segment_softmax(scores: Tensor, segments: Segments) -> Tensor:
    """float [P] -> [P]: softmax within every row, stable for any finite scores."""
    if not scores.numel():
        return scores
    highest = torch.segment_reduce(scores.detach(), "max", offsets=segments.offsets, unsafe=True)
    exponentials = torch.exp(scores - highest.index_select(0, segments.ids))
    totals = segment_sum(exponentials.unsqueeze(1), segments)
    return exponentials / expand_rows(totals, segments).squeeze(1)


def _bag(values: Tensor, segments: Segments, weights: Tensor | None) -> Tensor:
    if not values.shape[0]:
        return values.new_zeros(len(segments), values.shape[1])
    return torch.nn.functional.embedding_bag(
        segments.positions,
        values,
        segments.offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor | None, segments: Segments) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.segments = segments
        return _bag(values, segments, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, weights = ctx.saved_tensors
        expanded = expand_rows(gradient, ctx.segments)
        of_values = of_weights = None
        if ctx.needs_input_grad[1]:
            of_weights = (expanded * values).sum(1)
        if ctx.needs_input_grad[0]:
            of_values = expanded if weights is None else expanded * weights.unsqueeze(1)
        return of_values, of_weights, None


class _ExpandRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return rows.index_select(0, segments.ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return segment_sum(gradient.contiguous(), ctx.segments), None

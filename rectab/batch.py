"""What flows from the data to the model: jagged histories and batches of rows. Imports nothing of rectab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Jagged", "Share"]


class Share(NamedTuple):
    """Which rows of a batch that several processes have parts of.

    Attributes:
        first: number of the first one.
        total: rows of the whole batch.
    """

    first: int
    total: int


@dataclass(frozen=True)
class Jagged:
    """B lists of different lengths, laid end to end.

    Attributes:
        values: int64 or float [sum L, *]: the elements of every list, row after row.
        offsets: int64 [B + 1]: row b is ``values[offsets[b]:offsets[b + 1]]``; offsets[0] is 0.
        cut_to: rows have been cut to so many elements already; None where that is not known.
    """

    values: Tensor
    offsets: Tensor
    cut_to: int | None = None

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def lengths(self) -> Tensor:
        """int64 [B]: length of every row."""
        return self.offsets[1:] - self.offsets[:-1]

    def segment_ids(self) -> Tensor:
        """int64 [sum L]: the row that every element belongs to."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths(), output_size=self.values.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Jagged:
        """The same B rows on ``device``; a tensor that is there already is shared, not copied.

        Args:
            device: where to.
            non_blocking: as in ``torch.Tensor.to``.
        """
        return Jagged(
            self.values.to(device, non_blocking=non_blocking),
            self.offsets.to(device, non_blocking=non_blocking),
            self.cut_to,
        )

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor | None = None, padding_value: int = 0) -> Jagged:
        """From [B, L, *] padded on the right.

        Args:
            padded: [B, L, *]: B rows of at most L elements; an element may have dimensions of its own.
            lengths: int64 [B], the leading elements of every row that are kept; more than L keeps all L. If None, every
                element of [B, L] that equals ``padding_value`` is dropped, wherever it stands (so padding on the left
                works too, and ``padding_value`` must not be a real value). An element with dimensions of its own is
                dropped if all of it equals ``padding_value``.
            padding_value: see ``lengths``.

        Returns:
            ``values`` [sum L, *] of the dtype of ``padded``, ``offsets`` int64 [B + 1].
        """
        if lengths is None:
            keep = padded != padding_value
            if keep.dim() > 2:
                keep = keep.flatten(2).any(-1)
        else:
            keep = torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)
        offsets = torch.zeros(padded.shape[0] + 1, dtype=torch.int64, device=padded.device)
        torch.cumsum(keep.sum(1), 0, out=offsets[1:])
        return cls(padded[keep], offsets)

    def to_padded(self, length: int | None = None, padding_value: float = 0) -> tuple[Tensor, Tensor]:
        """([B, length, *] padded on the right, bool mask [B, length]); rows longer than ``length`` keep their end."""
        lengths = self.lengths()
        width = int(lengths.max()) if length is None and len(self) else int(length or 0)
        position = torch.arange(width, device=self.values.device)
        kept = lengths.clamp(max=width)
        mask = position < kept.unsqueeze(1)
        source = (self.offsets[1:] - kept).unsqueeze(1) + position
        padded = self.values.new_full((len(self), width, *self.values.shape[1:]), padding_value)
        padded[mask] = self.values[source[mask]]
        return padded, mask


@dataclass(frozen=True)
class Batch:
    """B rows of a prepared data set.

    Attributes:
        ids: int64 [B, F], one column per categorical feature, in schema order.
        dense: float32 [B, N], one column per dense feature; N may be 0.
        histories: by sequence feature name; values int64. The sequences of one behaviour have equal offsets.
        labels: float32 [B], or None when serving.
        groups: int64 [B], the group each row counts in for GAUC, or None.
        share: which part of the step's batch this is, where other processes have the others; None if it is all of it.
    """

    ids: Tensor
    dense: Tensor
    histories: dict[str, Jagged] = field(default_factory=dict)
    labels: Tensor | None = None
    groups: Tensor | None = None
    share: Share | None = None

    @property
    def total(self) -> int:
        """Rows that all processes have of the step's batch."""
        return len(self) if self.share is None else self.share.total

    def __len__(self) -> int:
        return self.ids.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of it."""
        yield from (self.ids, self.dense)
        for jagged in self.histories.values():
            yield from (jagged.values, jagged.offsets)
        yield from (tensor for tensor in (self.labels, self.groups) if tensor is not None)

    def pin_memory(self) -> Batch:
        """A copy in memory that a GPU reads by itself; needs a GPU."""
        return Batch(
            ids=self.ids.pin_memory(),
            dense=self.dense.pin_memory(),
            histories={
                name: Jagged(jagged.values.pin_memory(), jagged.offsets.pin_memory(), jagged.cut_to)
                for name, jagged in self.histories.items()
            },
            labels=None if self.labels is None else self.labels.pin_memory(),
            groups=None if self.groups is None else self.groups.pin_memory(),
            share=self.share,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same B rows with every tensor on ``device``; what is there already is shared, not copied.

        Args:
            device: where to.
            non_blocking: as in ``torch.Tensor.to``.
        """

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return Batch(
            ids=self.ids.to(device, non_blocking=non_blocking),
            dense=self.dense.to(device, non_blocking=non_blocking),
            histories={name: jagged.to(device, non_blocking) for name, jagged in self.histories.items()},
            labels=move(self.labels),
            groups=move(self.groups),
            share=self.share,
        )

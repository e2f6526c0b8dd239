"""What the learned methods share beside their tables: rows in pieces, curves over training, shares by id frequency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary

__all__ = ["Curve", "frequency_order", "share_by_decile", "slices_of"]


def slices_of(num_rows: int, step: int = 1 << 18) -> Iterator[slice]:
    """``0 .. num_rows`` in pieces, so that what is computed from a large table stays small."""
    return (slice(first, min(first + step, num_rows)) for first in range(0, num_rows, step))


def frequency_order(vocabularies: Sequence[Vocabulary]) -> Tensor | None:
    """int64 [N]: numbers of all vocabularies' ids (in schema order) from the most to the least frequent in training.

    Ties go to the lower number. None if a vocabulary has no counts.
    """
    counts = [v.counts for v in vocabularies]
    if any(c is None for c in counts):
        return None
    return torch.from_numpy(np.argsort(-np.concatenate([np.asarray(c) for c in counts]), kind="stable"))


def share_by_decile(vocabularies: Sequence[Vocabulary], kept: Tensor) -> list[float] | None:
    """Mean of ``kept`` [N] in every tenth of the ids, the most frequent first; None without counts."""
    order = frequency_order(vocabularies)
    if order is None:
        return None
    return [float(part.double().mean()) if part.numel() else 0.0 for part in kept[order].tensor_split(10)]


class Curve(nn.Module):
    """At most ``capacity`` points of a vector over training steps, evenly spread however long training is.

    It is made of buffers, so a checkpoint of the table holds the curve as well.

    Args:
        width: elements of the vector.
        capacity: an even number.
    """

    values: Tensor
    state: Tensor

    def __init__(self, width: int, capacity: int = 64, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("values", torch.zeros(capacity, width, device=device))
        self.register_buffer("state", torch.tensor([0, 1], device=device))  # points there are, steps between them

    @torch.no_grad()
    def add(self, step: int, value: Tensor) -> None:
        """Offer the vector at a step, counted from 1; it is taken if it is the next point's turn."""
        count, stride = self.state.tolist()
        if step % stride:
            return
        if count == self.capacity:  # every second point goes
            self.values[: count // 2] = self.values[1::2].clone()
            count, stride = count // 2, stride * 2
            self.state.copy_(torch.tensor([count, stride]))
            if step % stride:
                return
        self.values[count] = value
        self.state[0] = count + 1

    def points(self) -> tuple[list[int], list[list[float]]]:
        """Steps [n] and values [n][width]."""
        count, stride = self.state.tolist()
        return [stride * (i + 1) for i in range(count)], self.values[:count].double().round(decimals=6).tolist()

    def names(self, prefix: str) -> tuple[str, ...]:
        """Of its tensors in the ``state_dict`` of the module that holds it as ``prefix``."""
        return tuple(f"{prefix}.{name}" for name in self.state_dict())

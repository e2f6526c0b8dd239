"""Fitting OptEmbed to a budget. The paper has no way to ask for a size; this is rectab's extension.

The supernet's thresholds say in which order the rows of a vocabulary go: by margin, which is norm minus threshold.
Between vocabularies margins are compared in units of what a row of the vocabulary has to do (:func:`row_scales`): L2
makes the norms of some vocabularies smaller than those of others, and a row of a small vocabulary serves more lookups.
Moving all thresholds by one common shift, in these units, is a quantile of the margins, so for any choice of widths
there is a shift at which the rows kept fill the budget. The search over widths evaluates every candidate at its own
shift; so rows and widths are chosen together.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.idset import IdSet
from rectab.tables.optembed.config import CompactOptEmbedConfig, OptEmbedConfig
from rectab.tables.optembed.serving import compact_bytes

__all__ = ["Shape", "Sizer", "largest_bytes", "row_scales", "smallest_bytes"]


@dataclass(frozen=True)
class Shape:
    """Which rows and dimensions are kept.

    Attributes:
        widths: kept dimensions of every vocabulary.
        shift: added to every threshold, in units of its vocabulary's scale.
    """

    widths: tuple[int, ...]
    shift: float


class Sizer:
    """Finds the shift at which given widths fill the budget. Rows of equal margin stay or go together.

    Args:
        vocabularies: V vocabularies of N ids together.
        embedding_dim: D.
        config: its budget is what is filled; without one nothing is moved.
        options: dtype of the rows.
        margins: float32 [N], norm minus threshold of every row, over its vocabulary's scale; all rows are kept if
            ``config.search_rows`` is off.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: OptEmbedConfig,
        options: TableOptions,
        margins: Tensor,
    ) -> None:
        self.vocabularies, self.embedding_dim, self.config, self.options = vocabularies, embedding_dim, config, options
        self.sizes = [v.num_embeddings for v in vocabularies]
        order = margins.argsort(descending=True, stable=True)
        self.margins = margins[order]
        owner = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.owner = owner.to(margins.device)[order]

    def fit(self, widths: Sequence[int]) -> Shape:
        """The shape with these widths, or narrower ones if not even one row of them fits, that fills the budget."""
        budget = self.config.budget_bytes
        if budget is None:
            return Shape(tuple(widths), 0.0)
        current = list(widths)
        while (shift := self._shift(current, budget)) is None:
            widest = max(range(len(current)), key=lambda v: (current[v], self.sizes[v]))
            if current[widest] == 1 or not self.config.search_dims:
                raise ValueError(f"optembed: nothing fits {budget} bytes; plan() gives the smallest feasible budget")
            current[widest] -= 1
        return Shape(tuple(current), shift)

    def _shift(self, widths: Sequence[int], budget: int) -> float | None:
        """The smallest shift that fits; None if none does."""
        if self._bytes(self.sizes, widths) <= budget:
            return float("-inf")
        if not self.config.search_rows:
            return None
        row_bytes = [int(self.options.row_bytes(width)) for width in widths]
        size_up_to = torch.tensor(row_bytes, device=self.owner.device)[self.owner].cumsum(0)
        num_ids = self.owner.numel()
        # What does not depend on which rows are kept; index types are those of the full table, at least as wide.
        fixed = self._bytes(self.sizes, widths) - int(size_up_to[-1])

        def excess(count: int) -> int:
            kept = int(size_up_to[count - 1]) if count else 0
            return kept + IdSet.bytes_of(num_ids, count) + fixed - budget

        count = bisect.bisect_right(range(num_ids), 0, key=excess) - 1
        if count < (0 if self.config.pruned == "shared" else 1):
            return None
        below = self.margins[count]
        above = self.margins[count - 1] if count else below
        return float((above + below) / 2)

    def _bytes(self, num_rows: Sequence[int], widths: Sequence[int]) -> int:
        compact = CompactOptEmbedConfig(tuple(num_rows), tuple(widths), self.config.pruned)
        return compact_bytes(self.vocabularies, self.embedding_dim, compact, self.options)


def row_scales(norms: Tensor, vocabularies: Sequence[Vocabulary]) -> Tensor:
    """float32 [V], above 0: the average norm over a vocabulary's lookups in training, times its number of rows.

    A margin over the first factor is the row's share of what a lookup gives; one over the number of rows is the share
    of lookups that an average row serves.

    Args:
        norms: float32 [N], of all rows.
        vocabularies: of N ids together; all rows of one without counts weigh the same.
    """
    scales = torch.ones(len(vocabularies), dtype=torch.float64, device=norms.device)
    parts = norms.double().split([v.num_embeddings for v in vocabularies])
    for index, (part, vocabulary) in enumerate(zip(parts, vocabularies, strict=True)):
        counts = torch.ones_like(part) if vocabulary.counts is None else torch.from_numpy(vocabulary.counts).to(part)
        total = (part * counts).sum() * part.numel()
        if total > 0:
            scales[index] = total / counts.sum()
    return scales.float()


def smallest_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: OptEmbedConfig, options: TableOptions
) -> int:
    """Bytes of the smallest serving form: as few and as narrow rows as the config lets the method learn."""
    width = 1 if config.search_dims else embedding_dim
    sizes = [v.num_embeddings for v in vocabularies]
    everything = CompactOptEmbedConfig(tuple(sizes), (width,) * len(sizes), config.pruned)
    size = compact_bytes(vocabularies, embedding_dim, everything, options)
    if not config.search_rows:
        return size
    rows = 0 if config.pruned == "shared" else 1
    row_bytes = (sum(sizes) - rows) * options.row_bytes(width)
    return size - int(row_bytes) + IdSet.bytes_of(sum(sizes), rows)


def largest_bytes(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, config: OptEmbedConfig, options: TableOptions
) -> int:
    """Bytes that no serving form exceeds."""
    sizes = tuple(v.num_embeddings for v in vocabularies)
    everything = CompactOptEmbedConfig(sizes, (embedding_dim,) * len(sizes), config.pruned)
    # Keeping all ids needs no set of kept ids, keeping almost all needs a bitmap.
    almost = IdSet.bytes_of(sum(sizes), sum(sizes) - 1) if config.search_rows else 0
    return compact_bytes(vocabularies, embedding_dim, everything, options) + almost

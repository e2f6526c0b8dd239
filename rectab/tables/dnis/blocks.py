"""Blocks of ids by training frequency (section 3.1): all ids of a block share one row of the soft selection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.learned import frequency_order

__all__ = ["assign_blocks", "block_sizes"]


def block_sizes(num_ids: int, shares: Sequence[float]) -> list[int]:
    """Ids of every block; they sum to ``num_ids``."""
    ends = [round(end * num_ids) for end in accumulate(shares)]
    ends[-1] = num_ids
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def assign_blocks(
    vocabularies: Sequence[Vocabulary], shares: Sequence[float], device: torch.device | str = "cpu"
) -> Tensor:
    """uint8 [N]: the block of every id of all vocabularies, in schema order; block 0 holds the most frequent.

    The ids themselves may be in any order; the authors' code needs them renumbered by frequency, and is silently wrong
    otherwise. All zeros without counts: see :meth:`DNISTable.train_with`.
    """
    num_ids = sum(v.num_embeddings for v in vocabularies)
    blocks = torch.zeros(num_ids, dtype=torch.uint8, device=device)
    order = None if blocks.is_meta else frequency_order(vocabularies)
    if order is not None:
        sizes = torch.tensor(block_sizes(num_ids, shares))
        blocks[order.to(device)] = torch.arange(len(sizes), dtype=torch.uint8).repeat_interleave(sizes).to(device)
    return blocks

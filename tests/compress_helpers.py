"""Small models with tables of several kinds, as one trains them, and rows for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

ITEMS, TAGS = 900, 70


def trained(table: nn.Embedding | nn.EmbeddingBag, seed: int = 0) -> nn.Embedding | nn.EmbeddingBag:
    """A few kinds of vectors and noise: what codebooks and grids are for."""
    generator = torch.Generator().manual_seed(seed)
    size, width = table.weight.shape
    kinds = torch.randn(12, width, generator=generator)
    with torch.no_grad():
        noise = 0.1 * torch.randn(size, width, generator=generator)
        table.weight.copy_(kinds[torch.randint(12, (size,), generator=generator)] + noise)
        if table.padding_idx is not None:
            table.weight[table.padding_idx].zero_()
    return table


class Clicks(nn.Module):
    """Items and bags of tags -> a logit a row.

    Args:
        ending: of the logits [B]: what the model returns.
        bag: options of the bag.
    """

    def __init__(self, ending: Callable[[Tensor], object] = lambda logits: logits, **bag) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item = trained(nn.Embedding(ITEMS, 6, padding_idx=0))
        self.tags = trained(nn.EmbeddingBag(TAGS, 4, **{"mode": "mean", **bag}), 1)
        self.top = nn.Linear(10, 1)
        self.ending = ending

    def forward(self, item: Tensor, tags: Tensor) -> object:
        return self.ending(self.top(torch.cat([self.item(item), self.tags(tags)], 1)).squeeze(1))


def rows(count: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(items, tags): the most frequent items are the last ones, and item 0 is padding."""
    rng = np.random.default_rng(seed)
    items = ITEMS - 1 - np.minimum(rng.zipf(1.4, count) - 1, ITEMS - 1)
    return torch.from_numpy(items), torch.from_numpy(rng.integers(0, TAGS, (count, 3)))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.detach().float().numpy().ravel(), b.detach().float().numpy().ravel())[0, 1])

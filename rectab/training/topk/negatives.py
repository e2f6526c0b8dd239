"""Items that a user has not, drawn uniformly for every row of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rectab.batch import Batch
from rectab.data.split import Split
from rectab.training.topk.interactions import Interactions

__all__ = ["Negatives", "with_negatives"]

_ROUNDS = 30
"""Of rejection. Of a user with nearly all items, a few of the drawn ones may then be known."""


class Negatives:
    """Draws from torch's generator, which a checkpoint keeps: a resumed run draws what it would have drawn.

    Args:
        interactions: whose training pairs are never drawn; nor is id 0, which stands for no item.
        device: of the batches.
    """

    def __init__(self, interactions: Interactions, device: torch.device) -> None:
        self.interactions = interactions
        self.known = torch.from_numpy(interactions.known).to(device)

    def draw(self, users: Tensor) -> Tensor:
        """int64 [n] -> int64 [n]: an item that training does not have of each user."""
        items = self._uniform(len(users))
        for _ in range(_ROUNDS):
            taken = self._taken(users, items)
            if not len(taken):
                break
            items[taken] = self._uniform(len(taken))
        return items

    def _uniform(self, count: int) -> Tensor:
        return torch.randint(1, self.interactions.num_items, (count,)).to(self.known.device)

    def _taken(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.interactions.num_items + items
        places = torch.searchsorted(self.known, keys).clamp(max=len(self.known) - 1)
        return torch.nonzero(self.known[places] == keys).squeeze(1)

    def beside(self, batch: Batch, each: int) -> Batch:
        """B interactions -> B * (1 + each) rows: the interactions, then ``each`` times all of them with other items."""
        ids = batch.ids.repeat(each, 1)
        ids[:, self.interactions.item_column] = self.draw(ids[:, self.interactions.user_column])
        return Batch(torch.cat([batch.ids, ids]), batch.dense.repeat(1 + each, 1))


def with_negatives(split: Split, interactions: Interactions, seed: int) -> Split:
    """The interactions of ``split`` and, labelled 0, as many rows with items that training does not have of the user.

    Args:
        split: of the data set of ``interactions``.
        interactions: of the data.
        seed: of the draw, which touches no global generator.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    users, items = interactions.pairs(split)
    drawn = Negatives(interactions, torch.device("cpu")).draw(torch.from_numpy(users)).numpy()
    torch.set_rng_state(state)
    ids = np.empty((2 * len(users), 2), np.int64)
    ids[:, interactions.user_column] = np.concatenate([users, users])
    ids[:, interactions.item_column] = np.concatenate([items, drawn])
    labels = np.repeat(np.array([1, 0], np.float32), len(users))
    dense = np.empty((len(ids), 0), np.float32)
    return Split(split.name, split.schema, ids, dense, labels, ids[:, interactions.user_column], None, ())

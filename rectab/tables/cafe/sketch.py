"""HotSketch: which ids add up to the largest scores, in memory of a fixed size.

Zhang et al., CAFE, SIGMOD 2024, section 4: buckets of four slots, each a key, a score and the row that the key owns. In
every bucket it is SpaceSaving (Metwally et al., ICDT 2005): a new key takes the slot of the least score and goes on
from that score; slots of keys that own a row are not taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rectab.ops import hash_rows

__all__ = ["HotSketch"]

_SLOTS = 4
_MARGIN = 1.1  # by how much a score must exceed that of the key whose row it takes: rows do not go to and fro
_DECAY_AFTER = 10  # times the score of the weakest owner, added for every row


class HotSketch(nn.Module):
    """``rows`` buckets, and as many rows to own.

    Memory: 48 bytes a row; 64 with keys of 64 bits and homes.

    Args:
        rows: that keys can own.
        key_dtype: int32 or int64; keys are not negative.
        homes: whether a key comes with a number that is wanted back, see :attr:`home`.
        salt: of the hash that chooses a key's bucket.
        device: where it is.

    Attributes:
        key: [rows, 4]; below 0 where there is none.
        score: fp32 [rows, 4].
        row: int32 [rows, 4]: what the key owns, or -1.
        home: int32 [rows, 4]: what came with the key.
        added: fp64: scores that came in since they decayed last.
    """

    key: Tensor
    score: Tensor
    row: Tensor
    home: Tensor
    added: Tensor

    def __init__(
        self, rows: int, key_dtype: torch.dtype, homes: bool, salt: int, device: torch.device | str | None
    ) -> None:
        super().__init__()
        self.rows, self.homes, self.salt = rows, homes, salt
        shape = (rows, _SLOTS)
        self.register_buffer("key", torch.full(shape, -2, dtype=key_dtype, device=device))
        self.register_buffer("score", torch.zeros(shape, device=device))
        self.register_buffer("row", torch.full(shape, -1, dtype=torch.int32, device=device))
        if homes:
            self.register_buffer("home", torch.zeros(shape, dtype=torch.int32, device=device))
        self.register_buffer("added", torch.zeros((), dtype=torch.float64, device=device))

    def find(self, keys: Tensor) -> Tensor:
        """int64 [*] -> int64 [*]: the row that each key owns, or -1."""
        bucket = hash_rows(keys, self.salt, self.rows)
        return self.row[bucket].where(self.key[bucket] == keys.unsqueeze(-1), -1).amax(-1).to(torch.int64)

    def insert(self, keys: Tensor, homes: Tensor, scores: Tensor) -> None:
        """Add scores, above 0, to those of keys; all [n], keys repeated or not. Of the new keys of a bucket that with
        the largest score comes last, so that it stays."""
        self.added += scores.sum()
        keys, inverse = torch.unique(keys, return_inverse=True)
        scores = torch.zeros(keys.numel(), device=keys.device).index_add_(0, inverse, scores)
        homes = torch.zeros_like(keys).index_copy_(0, inverse, homes)
        bucket = hash_rows(keys, self.salt, self.rows)
        match = self.key[bucket] == keys.unsqueeze(-1)
        known = match.any(-1)
        self.score.view(-1)[(bucket * _SLOTS + match.int().argmax(-1))[known]] += scores[known]
        new = (~known).nonzero().squeeze(1)
        new = new[scores[new].argsort(stable=True)]
        for one in _in_turns(new, bucket[new]):
            least, slot = self.score[bucket[one]].where(self.row[bucket[one]] < 0, math.inf).min(-1)
            free = least.isfinite()
            place = (bucket[one] * _SLOTS + slot)[free]
            self.key.view(-1)[place] = keys[one][free].to(self.key.dtype)
            self.score.view(-1)[place] = (least + scores[one])[free]
            if self.homes:
                self.home.view(-1)[place] = homes[one][free].int()

    def decay(self, factor: float) -> None:
        """Multiply scores by ``factor`` if ten times the least score of an owner has come in for every row."""
        owners = self.score[self.row >= 0]
        if owners.numel() and bool(self.added > _DECAY_AFTER * self.rows * owners.min()):
            self.score *= factor
            self.added.zero_()

    def exchange(self, threshold: float) -> tuple[Tensor, Tensor]:
        """Give free rows to the highest scores, and rows of the lowest to keys that exceed them.

        Args:
            threshold: least score of an owner.

        Returns:
            Slots, int64 [n], numbered through all buckets, and the rows int64 [n] that their keys own from now on.
        """
        score, row = self.score.view(-1), self.row.view(-1)
        row[(row >= 0) & (score < threshold)] = -1
        rivals = score.where((self.key.view(-1) >= 0) & (row < 0), -1.0).topk(self.rows)
        better = (rivals.values > 0) & (rivals.values >= threshold)
        slots, scores = rivals.indices[better], rivals.values[better]
        owners = (row >= 0).nonzero().squeeze(1)
        taken = torch.zeros(self.rows, dtype=torch.bool, device=row.device)
        taken[row[owners].long()] = True
        free = (~taken).nonzero().squeeze(1)[: slots.numel()]
        weakest = owners[score[owners].argsort(stable=True)][: slots.numel() - free.numel()]
        last = free.numel() + weakest.numel()
        wins = scores[free.numel() : last] > _MARGIN * score[weakest]
        slots = torch.cat([slots[: free.numel()], slots[free.numel() : last][wins]])
        rows = torch.cat([free, row[weakest[wins]].long()])
        row[weakest[wins]] = -1
        row[slots] = rows.int()
        return slots, rows


def _in_turns(keys: Tensor, buckets: Tensor) -> tuple[Tensor, ...]:
    """Keys int64 [n] of ``buckets`` [n] -> their parts, in each of which no bucket comes twice; the order within a
    bucket stays."""
    grouped = buckets.argsort(stable=True)
    buckets = buckets[grouped]
    place = torch.arange(keys.numel(), device=keys.device)
    first = torch.ones_like(buckets, dtype=torch.bool)
    first[1:] = buckets[1:] != buckets[:-1]
    turn = place - place.where(first, 0).cummax(0).values if keys.numel() else place
    return keys[grouped][turn.argsort(stable=True)].split(torch.bincount(turn).tolist())

"""Negatives: items that a row's group has in no split, drawn once by ``prepare``, and anew in every epoch of training.

What is drawn once is stored and stays: validation, test, and training with ``redraw = "never"``. Training with
``redraw = "epoch"`` keeps the stored draw as one epoch's worth, to count ids by, and reads another in every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rectab.data.candidates import Candidates
from rectab.data.keyed_random import uniform_of

__all__ = ["Redraw", "draw_negatives", "salt_of_epoch"]

_ROUNDS = 100  # of rejection, before the rest is drawn from what is free


def draw_negatives(candidates: Candidates, groups: np.ndarray, ratio: int, seed: int) -> np.ndarray:
    """The draw that is stored: independent draws, so a positive may get an item twice.

    Uniform ones are drawn from the catalogue, and again where the group has the item. That is how they were always
    drawn, so a recipe and a seed name the same rows as ever.

    Args:
        candidates: what may be drawn.
        groups: int64 [m], the groups of the positives to draw for; each has some weight free.
        ratio: negatives per positive.
        seed: of the draw.

    Returns:
        int64 [m, ratio]: places in the catalogue.
    """
    generator = np.random.default_rng(seed)
    asked = np.repeat(groups, ratio)
    drawn = np.empty(len(asked), np.int64)
    left = np.arange(len(asked))
    for _ in range(0 if len(candidates.ends) else _ROUNDS):
        if not len(left):
            break
        drawn[left] = generator.integers(0, candidates.size, len(left))
        left = left[candidates.has(asked[left], drawn[left])]
    drawn[left] = candidates.draw(asked[left], generator.random(len(left)))
    return drawn.reshape(len(groups), ratio)


def salt_of_epoch(seed: int, epoch: int) -> int:
    """What the negatives of an epoch are a function of, beside the row: 64 bits from a seed of any length."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Redraw:
    """Gives the negatives of training another item; what else a row has, its group, time and history, stays.

    Attributes:
        candidates: what may be drawn.
        id_columns: the J columns of ``Batch.ids`` that belong to the item.
        ids: int32 or int64 [C, J]: those columns, for every item of the catalogue.
        dense_columns: the K columns of ``Batch.dense`` that belong to the item.
        dense: float32 [C, K].
    """

    candidates: Candidates
    id_columns: tuple[int, ...]
    ids: np.ndarray
    dense_columns: tuple[int, ...]
    dense: np.ndarray

    def apply(
        self, salt: int, rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, ids: np.ndarray, dense: np.ndarray
    ) -> None:
        """Draw for the negatives among B rows and write their item's columns into ``ids`` and ``dense``.

        Args:
            salt: of the epoch, see :func:`salt_of_epoch`; a row's draw is a function of the salt and its number.
            rows: int64 [B], numbers of the rows in the training split.
            labels: float32 [B], 0 for a negative.
            groups: int64 [B].
            ids: int64 [B, F], changed.
            dense: float32 [B, N], changed.
        """
        negative = np.flatnonzero(labels == 0)
        drawn = self.candidates.draw(groups[negative], uniform_of(rows[negative], salt))
        ids[negative[:, None], self.id_columns] = self.ids[drawn]
        dense[negative[:, None], self.dense_columns] = self.dense[drawn]

"""Recall@k and NDCG@k of a model that ranks all items for every user, a chunk of users at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rectab.batch import Batch, Jagged
from rectab.data.split import Split
from rectab.models import CTRModel
from rectab.ranking import rank_users
from rectab.training.errors import TrainingError
from rectab.training.evaluation import evaluating
from rectab.training.topk.interactions import Interactions

__all__ = ["evaluate_topk", "score_items"]

_SCORES = 2_000_000
"""Scores held at a time."""


@torch.no_grad()
def evaluate_topk(
    model: CTRModel, interactions: Interactions, split: Split, known: np.ndarray, ks: tuple[int, ...]
) -> dict[str, float]:
    """``recall@k`` and ``ndcg@k`` for every k, and ``auc``: means over the users of ``split``, in evaluation mode.

    All items that training has are ranked, but those in ``known``. Relevant are the items of the user's interactions in
    ``split`` that are not known already. One that training does not have is never found, and counts.

    Args:
        model: of two fields, user and item.
        interactions: of the data.
        split: whose interactions are to be found.
        known: int64 [m], ascending: pairs of earlier splits, as :meth:`Interactions.keys` gives them.
        ks: lengths of the lists.

    Raises:
        TrainingError: a score is not finite.
        ValueError: there is nothing to find.
    """
    keys = np.setdiff1d(interactions.keys(split), known, assume_unique=True)
    if not len(keys):
        raise ValueError(f"split {split.name!r} has no interaction that is not in an earlier split")
    users, items = np.divmod(keys, interactions.num_items)
    asked = np.unique(users)
    owners, owned = np.divmod(known, interactions.num_items)
    parts: list[Tensor] = []
    size = max(1, _SCORES // interactions.num_items)
    with evaluating(model):
        for start in range(0, len(asked), size):
            chunk = asked[start : start + size]
            scores = score_items(model, interactions, torch.from_numpy(chunk).to(model.table.device))
            if not bool(torch.isfinite(scores).all()):
                raise TrainingError(
                    f"scores on split {split.name!r} are not finite: training has diverged; try a lower lr"
                )
            found = rank_users(
                scores,
                _lists(chunk, users, items, scores.device),
                _lists(chunk, owners, owned, scores.device),
                ks,
                torch.from_numpy(_absent(chunk, users, items)).to(scores.device),
            )
            parts.append(torch.stack([*found.recall.values(), *found.ndcg.values(), found.auc]).cpu())
    names = [*(f"recall@{k}" for k in ks), *(f"ndcg@{k}" for k in ks), "auc"]
    means = torch.cat(parts, dim=1).nanmean(1).tolist()
    return dict(zip(names, means, strict=True))


def score_items(model: CTRModel, interactions: Interactions, users: Tensor) -> Tensor:
    """int64 [U] -> float32 [U, I - 1]: the model's scores of items 1 to I - 1 for each user."""
    items = torch.arange(1, interactions.num_items, device=users.device)
    of_user, of_item = (model.field_vocabularies[c] for c in (interactions.user_column, interactions.item_column))
    pairs = model.interaction.scores_of_pairs(model.table(users, of_user), model.table(items, of_item))
    if pairs is not None:
        return pairs.float()
    rows: list[Tensor] = []
    for user in users.tolist():
        ids = torch.empty(len(items), 2, dtype=torch.int64, device=users.device)
        ids[:, interactions.user_column], ids[:, interactions.item_column] = user, items
        rows.append(model(Batch(ids, torch.empty(len(items), 0, device=users.device))).float())
    return torch.stack(rows)


def _lists(chunk: np.ndarray, users: np.ndarray, items: np.ndarray, device: torch.device) -> Jagged:
    """The items of every user of ``chunk`` from 0, without id 0; ``users`` int64 [n], ascending, with ``items`` [n]."""
    first, last = np.searchsorted(users, [chunk[0], chunk[-1] + 1])
    users, items = users[first:last], items[first:last]
    kept = (items > 0) & np.isin(users, chunk)
    counts = np.bincount(np.searchsorted(chunk, users[kept]), minlength=len(chunk))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Jagged(torch.from_numpy(items[kept] - 1).to(device), torch.from_numpy(offsets).to(device))


def _absent(chunk: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64 [U]: 1 for a user who has an item that training does not have."""
    return np.isin(chunk, users[items == 0]).astype(np.int64)

"""How good rankings of all items are: recall@k, NDCG@k, AUC of every user. Exact; ties go by the number of the item.

Every function takes a chunk of users, so that the scores of all users never lie in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.batch import Jagged

__all__ = ["RankedUsers", "rank_users"]


@dataclass(frozen=True)
class RankedUsers:
    """Metrics of U users, one number each.

    Attributes:
        recall: by k, float64 [U]: share of the user's relevant items that are among the first k.
        ndcg: by k, float64 [U]: sum of 1 / log2(rank + 1) of the relevant items among the first k, over the most it can
            be (Järvelin and Kekäläinen, TOIS 2002, binary gains).
        auc: float64 [U]: share of pairs of a relevant and another candidate in which the relevant one scores higher,
            ties half (Rendle et al., UAI 2009, section 6.2); NaN where there is no such pair.
    """

    recall: dict[int, Tensor]
    ndcg: dict[int, Tensor]
    auc: Tensor


def rank_users(
    scores: Tensor, relevant: Jagged, excluded: Jagged, ks: tuple[int, ...], missing: Tensor | None = None
) -> RankedUsers:
    """Rank all items for every user.

    Args:
        scores: float [U, I], finite.
        relevant: U lists of items, each once and none excluded; a user has at least one, or one that is missing.
        excluded: U lists of items that are no candidates, such as those of training.
        ks: lengths of the lists, at least 1.
        missing: int64 [U]: relevant items that are not among the I, and so never found; they count in recall and NDCG.
    """
    items = scores.shape[1]
    is_relevant = torch.zeros_like(scores, dtype=torch.bool)
    is_relevant[relevant.segment_ids(), relevant.values] = True
    candidates = scores.clone()
    candidates[excluded.segment_ids(), excluded.values] = -torch.inf
    ordered, order = candidates.sort(dim=1, descending=True, stable=True)
    depth = min(max(ks), items)
    top = order[:, :depth]
    hits = (is_relevant.gather(1, top) & (ordered[:, :depth] > -torch.inf)).double()
    count = relevant.lengths() + (0 if missing is None else missing)
    discounts = 1 / torch.log2(torch.arange(2, max(ks) + 2, dtype=torch.float64, device=scores.device))
    best = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])
    gained = hits * discounts[:depth]
    return RankedUsers(
        recall={k: hits[:, :k].sum(1) / count for k in ks},
        ndcg={k: gained[:, :k].sum(1) / best[count.clamp(max=k)] for k in ks},
        auc=_areas(ordered.flip(1).contiguous(), candidates, relevant, excluded.lengths()),
    )


def _areas(ascending: Tensor, candidates: Tensor, relevant: Jagged, left_out: Tensor) -> Tensor:
    """AUC [U] by mid-ranks among the candidates (Mann and Whitney)."""
    held, mask = relevant.to_padded()
    values = candidates.gather(1, held.clamp(min=0))
    lower = torch.searchsorted(ascending, values)
    upper = torch.searchsorted(ascending, values, right=True)
    middle = (lower + upper + 1).double() / 2 - left_out.unsqueeze(1)
    positives = relevant.lengths().double()
    negatives = candidates.shape[1] - left_out - positives
    ranks = torch.where(mask, middle, 0.0).sum(1)
    pairs = positives * negatives
    return torch.where(pairs > 0, (ranks - positives * (positives + 1) / 2) / pairs.clamp(min=1), torch.nan)

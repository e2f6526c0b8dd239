"""The objective ``topk`` of a run: its loss, and its metrics on validation."""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.data.dataset import PreparedDataset
from rectab.data.split import Split
from rectab.models import CTRModel
from rectab.training.config import TrainConfig
from rectab.training.topk.evaluation import evaluate_topk
from rectab.training.topk.interactions import Interactions
from rectab.training.topk.losses import bpr, sampled_logloss
from rectab.training.topk.negatives import Negatives

__all__ = ["Ranking"]


class Ranking:
    """How a run with ``objective = "topk"`` learns and is measured.

    Args:
        dataset: the data; rows of a positive label are interactions, others are not read.
        config: loss, sampled negatives, lengths of lists.
        device: where it trains.
    """

    def __init__(self, dataset: PreparedDataset, config: TrainConfig, device: torch.device) -> None:
        self.interactions = Interactions.of(dataset)
        self.config = config
        self.negatives = Negatives(self.interactions, device)

    def loss(self, scores: Tensor, positives: int) -> Tensor:
        """Of what :meth:`Negatives.beside` laid out."""
        return bpr(scores, positives) if self.config.topk_loss == "bpr" else sampled_logloss(scores, positives)

    def evaluate(self, model: CTRModel, split: Split) -> dict[str, float]:
        """Metrics on rows of validation; items of training are no candidates."""
        return evaluate_topk(model, self.interactions, split, self.interactions.known, self.config.topk)

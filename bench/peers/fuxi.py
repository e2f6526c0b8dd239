"""FuxiCTR's models and its training step: ``train_step`` with its dense Adam and its clipping of gradients.

The wheel holds model files for long histories only. DCNv2 and DeepFM are put together here from FuxiCTR's own layers,
as the model zoo of its repository does; DIN is the wheel's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from model_zoo.LongCTR.DIN.DIN import DIN
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.schema import Schema

__all__ = ["MAX_GRADIENT_NORM", "FuxiCTRModel", "flat_inputs", "history_inputs"]

MAX_GRADIENT_NORM = 10.0  # as fit() sets it

logging.getLogger().setLevel(logging.WARNING)
_COMMON: dict[str, Any] = {"loss": "binary_crossentropy", "task": "binary_classification", "metrics": ["AUC"]}
_COMMON |= {"monitor": "AUC", "verbose": 0, "optimizer": "adam"}


class _Flat(BaseModel):
    """A model over one vector per field."""

    def __init__(self, features: FeatureMap, name: str, embedding_dim: int, hidden: list[int], dropout: float,
                 batch_norm: bool, learning_rate: float, **options: Any) -> None:  # fmt: skip
        super().__init__(features, model_id=name, gpu=-1, **options)
        self.embedding_layer = FeatureEmbedding(features, embedding_dim)
        width, deepfm = features.sum_emb_out_dim(), name == "deepfm"
        self.fm = FactorizationMachine(features) if deepfm else None
        self.crossnet = None if deepfm else CrossNetV2(width, 3)
        self.mlp = MLP_Block(input_dim=width, output_dim=1 if deepfm else None, hidden_units=hidden,
                             hidden_activations="ReLU", output_activation=None, dropout_rates=dropout,
                             batch_norm=batch_norm)  # fmt: skip
        self.fc = None if deepfm else nn.Linear(width + hidden[-1], 1)
        self.compile(options["optimizer"], options["loss"], learning_rate)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = self.get_inputs(inputs)
        vectors = self.embedding_layer(ids)
        if self.fm is not None:
            logits = self.fm(ids, vectors) + self.mlp(vectors.flatten(1))
        else:
            flat = vectors.flatten(1)
            logits = self.fc(torch.cat([self.crossnet(flat), self.mlp(flat)], dim=-1))
        return {"y_pred": self.output_activation(logits)}


class FuxiCTRModel:
    """One of FuxiCTR's models, stepped batch by batch.

    Args:
        name: ``dcnv2``, ``deepfm`` or ``din``.
        folder: for its files.
        seed: of the initial weights.
        options: of the model.
    """

    def __init__(
        self, name: str, schema: Schema, embedding_dim: int, lr: float, folder: Path, seed: int = 0, **options: Any
    ) -> None:
        torch.manual_seed(seed)
        features = _feature_map(schema, embedding_dim, folder, with_items=name == "din")
        given = {**_COMMON, "embedding_dim": embedding_dim, "learning_rate": lr, "model_root": str(folder), **options}
        self.model = DIN(features, **given) if name == "din" else _Flat(features, name, **given)
        self.model._max_gradient_norm, self.model._batch_index = MAX_GRADIENT_NORM, 0  # as fit() sets them

    def step(self, batch: Any) -> float:
        self.model.train()
        return float(self.model.train_step(batch))

    def predict(self, batches: list[Any]) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            return torch.cat([self.model(batch)["y_pred"].squeeze(1) for batch in batches])


def _feature_map(schema: Schema, embedding_dim: int, folder: Path, with_items: bool) -> FeatureMap:
    """With items: the targets of histories are item features, as LongCTR's models want them."""
    targets = [f.target for f in schema.features if f.kind == "sequence"] if with_items else []
    features = FeatureMap("bench", str(folder))
    specs = OrderedDict()
    for feature in schema.categorical:
        size = schema.vocabularies[schema.vocabulary_index(feature.vocabulary)].num_embeddings
        source = "item" if feature.name in targets else "user"
        specs[feature.name] = {"type": "categorical", "source": source, "vocab_size": size}
        if source == "item":
            specs[feature.name]["padding_idx"] = 0
    features.features = specs
    features.labels, features.num_fields, features.default_emb_dim = ["label"], len(specs), embedding_dim
    (folder / "bench").mkdir(parents=True, exist_ok=True)
    return features


def flat_inputs(schema: Schema, batch: Batch) -> dict[str, Tensor]:
    columns = {f.name: batch.ids[:, i].contiguous() for i, f in enumerate(schema.categorical)}
    return {**columns, "label": batch.labels}


def history_inputs(schema: Schema, batch: Batch, length: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """(features, items: history and target laid end to end, mask [B, length])."""
    flat, items = flat_inputs(schema, batch), {}
    for feature in (f for f in schema.features if f.kind == "sequence"):
        past, mask = batch.histories[feature.name].to_padded(length)
        items[feature.target] = torch.cat([past, flat.pop(feature.target).unsqueeze(1)], 1).flatten()
    return flat, items, mask.float()

"""Compress a FuxiCTR model that its own ``fit`` has trained: its batches are what ``compress_`` reads."""

import tempfile
from collections import OrderedDict

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

import rectab

folder = tempfile.mkdtemp()
feature_map = FeatureMap("", folder)
feature_map.labels, feature_map.num_fields = ["click"], 2
feature_map.features = OrderedDict(
    user={"type": "categorical", "source": "", "vocab_size": 10_000},
    item={"type": "categorical", "source": "", "vocab_size": 5_000, "padding_idx": 0},
)


class MLP(BaseModel):
    def __init__(self):
        super().__init__(feature_map, model_root=folder, metrics=["AUC"], verbose=0)
        self.embedding_layer = FeatureEmbedding(feature_map, 8)
        self.mlp = MLP_Block(16, hidden_units=[32], output_dim=1, output_activation="sigmoid")
        self.compile("adam", "binary_crossentropy", lr=0.01)

    def forward(self, inputs):
        return {"y_pred": self.mlp(self.embedding_layer(self.get_inputs(inputs), flatten_emb=True))}


model = MLP()
user, item = torch.randint(10_000, (1024,)), torch.randint(1, 5_000, (1024,))
batches = [{"user": user, "item": item, "click": (user % 2).float()}] * 8
model.fit(batches, epochs=2, validation_data=batches)

result = rectab.compress_(model, "10%", batches=batches)
print(model.evaluate(batches))

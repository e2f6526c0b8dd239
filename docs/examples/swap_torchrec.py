"""Swap the tables of torchrec's DLRM (unsharded)."""

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM

import rectab

sizes = {"user": 10_000, "item": 5_000}
tables = [
    EmbeddingBagConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=s, feature_names=[n]) for n, s in sizes.items()
]
model = DLRM(EmbeddingBagCollection(tables=tables), 4, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])
rectab.swap_(model, method="unified", budget="25%")

ids = KeyedJaggedTensor(
    keys=["user", "item"], values=torch.tensor([7, 9_999, 3, 4, 5]), lengths=torch.tensor([1, 1, 0, 3])
)
print(model(torch.randn(2, 4), ids))

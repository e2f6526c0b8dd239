"""Compress torchrec's DLRM (unsharded) once it is trained; its collections are called as before."""

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM

import rectab

sizes = {"user": 10_000, "item": 5_000}
tables = [
    EmbeddingBagConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=s, feature_names=[n]) for n, s in sizes.items()
]
model = DLRM(EmbeddingBagCollection(tables=tables), 4, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])

ids = torch.cat([torch.randint(size, (1024,)) for size in sizes.values()])
batch = (torch.randn(1024, 4), KeyedJaggedTensor(keys=list(sizes), values=ids, lengths=torch.ones(2048).int()))
result = rectab.compress_(model, "10%", batches=[batch])
print(model(*batch)[:2])

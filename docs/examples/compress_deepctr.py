"""Compress a DeepCTR-Torch model that its own ``fit`` has trained."""

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

import rectab

columns = [SparseFeat("user", 10_000, embedding_dim=8), SparseFeat("item", 5_000, embedding_dim=8)]
model = DeepFM(columns, columns, dnn_hidden_units=(32,))
model.compile("adam", "binary_crossentropy", metrics=["auc"])
random = np.random.default_rng(0)
data = {"user": random.integers(0, 10_000, 4096), "item": random.integers(0, 5_000, 4096)}
model.fit(data, (data["user"] % 2).astype("float32"), batch_size=128, epochs=1, verbose=0)

rows = torch.from_numpy(np.stack([data["user"], data["item"]], 1)).float()  # columns as model.feature_index has them
counts = {f"embedding_dict.{n}": np.bincount(data[n], minlength=s) for n, s in (("user", 10_000), ("item", 5_000))}
result = rectab.compress_(model, "10%", counts=counts, batches=rows.split(256))
print(model.predict(data)[:2])

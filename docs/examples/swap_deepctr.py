"""Swap the tables of a DeepCTR-Torch model; its own ``fit`` trains them."""

import numpy as np
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

import rectab

columns = [SparseFeat("user", 10_000, embedding_dim=8), SparseFeat("item", 5_000, embedding_dim=8)]
model = DeepFM(columns, columns, dnn_hidden_units=(32,))
model.compile("adam", "binary_crossentropy", metrics=["auc"])
rectab.swap_(model, method="unified", budget="25%")  # the tables of width 1 in the linear part count too

random = np.random.default_rng(0)
data = {"user": random.integers(0, 10_000, 1024), "item": random.integers(0, 5_000, 1024)}
model.fit(data, (data["user"] % 2).astype("float32"), batch_size=128, epochs=2, verbose=2)

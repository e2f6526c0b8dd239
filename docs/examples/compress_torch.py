"""Compress a trained plain torch model; save it; load it in another process, where no full table is ever allocated."""

import torch
from torch import nn

import rectab


def build() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(5000, 16, mode="mean", padding_idx=0), nn.Linear(16, 1), nn.Flatten(0))


model = build()  # and its own training loop
rows = [torch.randint(5000, (256, 20)) for _ in range(8)]  # what the model is called with
result = rectab.compress_(model, "10%", batches=rows)
torch.save(model.state_dict(), "small.pt")

with torch.device("meta"):
    served = build()
rectab.load_compressed_(served, torch.load("small.pt"))
print(torch.equal(served(rows[0]), model(rows[0])))
result.undo()

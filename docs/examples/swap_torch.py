"""Swap the tables of a plain torch model."""

import torch
from torch import nn

import rectab

model = nn.Sequential(nn.EmbeddingBag(100_000, 16, mode="mean"), nn.Linear(16, 1))
result = rectab.swap_(model, method="unified", budget="25%")

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
ids, labels = torch.randint(100_000, (256, 3)), torch.randint(2, (256,)).float()
for step in range(10):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(ids).squeeze(1), labels)
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.4f}")

"""Train the rows of a swapped model with a row optimizer: a step costs what the batch costs, not the table."""

import torch
from torch import nn

import rectab
from rectab.optim import RowAdam

model = nn.Sequential(nn.EmbeddingBag(100_000, 16, mode="mean"), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

result = rectab.swap_(model, "unified", "25%", gradient="row", optimizer=optimizer)
rows = RowAdam(result.row_stores(), lr=0.01)
result.step_with(optimizer, rows)  # rows.step() follows every optimizer.step()

ids, labels = torch.randint(100_000, (256, 3)), torch.randint(2, (256,)).float()
for step in range(10):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(ids).squeeze(1), labels)
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.4f}")

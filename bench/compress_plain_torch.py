"""A plain torch model, trained in a loop of its own, compressed by one call: what it costs.

    python bench/compress_plain_torch.py FOLDER [--json results.json]

FOLDER is what ``rectab prepare frappe`` wrote. Ids are shuffled within every column, so that they say nothing of how
often they occur, as in most models. The model (embeddings 10 wide, an MLP with batch norm) is trained with BCE and
Adam; the epoch of the best validation AUC is kept. Test is read before and after each compression and chooses nothing.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from compress_record import COLUMNS, compressed_rows, write
from torch import Tensor, nn

from rectab.data import PreparedDataset
from rectab.metrics import auc

DIM, UNITS, BATCH, RATE, DROPOUT = 10, (400, 400, 400), 2048, 1e-3, 0.3
BUDGETS = ("25%", "10%", "2%")
SAMPLE = 20_000


class ClickModel(nn.Module):
    """ids int64 [B, F] -> logits [B]."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, DIM) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        layers: list[nn.Module] = []
        for width, units in zip([DIM * len(sizes), *UNITS], UNITS, strict=False):
            layers += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.mlp = nn.Sequential(*layers, nn.Linear(UNITS[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        vectors = [table(ids[:, column]) for column, table in enumerate(self.tables)]
        return self.mlp(torch.cat(vectors, 1)).squeeze(1)


def shuffled(data: PreparedDataset, seed: int) -> tuple[list[int], dict[str, tuple[Tensor, Tensor]]]:
    """Sizes of the columns; (ids [n, F], labels [n]) of every split, the ids of every column renamed at random."""
    rng = np.random.default_rng(seed)
    sizes = [
        data.schema.vocabularies[data.schema.vocabulary_index(f.vocabulary)].num_embeddings
        for f in data.schema.categorical
    ]
    renamed = [torch.from_numpy(rng.permutation(size)) for size in sizes]
    splits = {}
    for name in ("train", "valid", "test"):
        rows = getattr(data, name)
        batch = rows.batch(slice(0, len(rows)), 0)
        ids = torch.stack([new[batch.ids[:, column]] for column, new in enumerate(renamed)], 1)
        splits[name] = (ids, torch.as_tensor(batch.labels).float())
    return sizes, splits


def scores(model: nn.Module, ids: Tensor) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in ids.split(8192)]).numpy()


def train(model: ClickModel, splits: dict[str, tuple[Tensor, Tensor]], epochs: int, seed: int) -> None:
    (ids, labels), (valid, valid_labels) = splits["train"], splits["valid"]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    best, kept = 0.0, copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(ids), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(ids[rows]), labels[rows]).backward()
            optimizer.step()
        reached = auc(valid_labels.numpy(), scores(model, valid))
        print(f"epoch {epoch + 1}: valid AUC {reached:.4f}", flush=True)
        if reached > best:
            best, kept = reached, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    sizes, splits = shuffled(PreparedDataset.open(options.folder), options.seed)
    model = ClickModel(sizes)
    train(model, splits, options.epochs, options.seed)

    (ids, _), (test, labels) = splits["train"], splits["test"]
    sample = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))[:SAMPLE]
    counts = {
        f"tables.{column}": np.bincount(ids[:, column].numpy(), minlength=size) for column, size in enumerate(sizes)
    }
    held_out = splits["valid"][0][:SAMPLE].split(2048)
    known = {
        "training rows": {"counts": counts, "batches": ids[sample].split(2048)},
        "held-out rows": {"counts": counts, "batches": held_out},
        "training rows, no counts": {"batches": ids[sample].split(2048)},
        "counts": {"counts": counts},
        "nothing": {},
    }
    print(COLUMNS)
    names = (options.folder.name, "torch MLP")
    write(compressed_rows(names, model, lambda: scores(model, test), labels.numpy(), known, BUDGETS), options.json)


if __name__ == "__main__":
    main()

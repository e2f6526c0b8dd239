"""Real models of every host on real rows, with their own tables and with swapped ones, trained in the host's own loop.

    .venv-peers/bin/python bench/swap_proof.py frappe FOLDER [--hosts torch torchrec deepctr fuxictr]
    .venv-peers/bin/python bench/swap_proof.py kuairand FOLDER --hosts din torchrec-weighted

FOLDER is a data set that ``rectab prepare`` wrote. Every run of a host has the same rows, order, optimizer and number
of epochs; the test split is read once, at the end. Prints a Markdown table: test AUC, bytes of the tables, and seconds
of training: CPU time of one thread, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import rectab
from rectab.batch import Batch, Jagged
from rectab.data import PreparedDataset
from rectab.optim import RowAdam

DIM, UNITS, BATCH, RATE, LENGTH = 16, [128, 64], 2048, 3e-3, 30


@dataclass(frozen=True)
class Host:
    """A model of a host library in the host's own loop.

    Attributes:
        model: with its tables.
        optimizer: that the loop steps.
        fit: trains for some epochs.
        predict: scores of the test split.
        batches: shuffled training rows as ``forward(model, batch)`` takes them or, if that is None, the model.
        forward: gives the outputs of a batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    fit: Callable[[int], None]
    predict: Callable[[], np.ndarray]
    batches: Callable[[], list[Any]]
    forward: Callable[[nn.Module, Any], Tensor] | None = None


def shuffled(data: PreparedDataset, seed: int, history: int | None) -> list[Batch]:
    order = np.random.default_rng(seed).permutation(len(data.train))
    return [data.train.batch(order[at : at + BATCH], history) for at in range(0, order.size, BATCH)]


def in_order(data: PreparedDataset, split: str, history: int | None) -> list[Batch]:
    rows = getattr(data, split)
    return [rows.batch(slice(at, min(at + BATCH, len(rows))), history) for at in range(0, len(rows), BATCH)]


def plain_loop(
    model: nn.Module, forward: Callable[[Batch], Tensor], data: PreparedDataset, history: int | None = 0
) -> Host:
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def fit(epochs: int) -> None:
        model.train()
        for epoch in range(epochs):
            for batch in shuffled(data, epoch, history):
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(forward(batch), batch.labels).backward()
                optimizer.step()

    @torch.no_grad()
    def predict() -> np.ndarray:
        model.eval()
        return torch.cat([forward(batch) for batch in in_order(data, "test", history)]).numpy()

    return Host(model, optimizer, fit, predict, lambda: shuffled(data, 0, history), lambda _, batch: forward(batch))


def torch_mlp(data: PreparedDataset, folder: Path) -> Host:
    sizes = [v.num_embeddings for v in data.schema.vocabularies]
    tables = nn.ModuleList(nn.Embedding(size, DIM) for size in sizes)
    for table in tables:
        nn.init.normal_(table.weight, std=0.01)
    layers: list[nn.Module] = []
    for width, units in zip([DIM * len(sizes), *UNITS], UNITS, strict=False):
        layers += [nn.Linear(width, units), nn.ReLU()]
    model = nn.ModuleDict({"tables": tables, "mlp": nn.Sequential(*layers, nn.Linear(UNITS[-1], 1))})

    def forward(batch: Batch) -> Tensor:
        vectors = [table(batch.ids[:, column]) for column, table in enumerate(model["tables"])]
        return model["mlp"](torch.cat(vectors, 1)).squeeze(1)

    return plain_loop(model, forward, data)


def torchrec_dlrm(data: PreparedDataset, folder: Path, weighted: bool = False) -> Host:
    """Bags of one id a column; weighted: the histories too, where the nth last id counts 1 / sqrt(n)."""
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.models.dlrm import DLRM

    columns = data.schema.categorical
    sequences = [f for f in data.schema.features if f.kind == "sequence"] if weighted else []
    readers: dict[str, list[str]] = {v.name: [] for v in data.schema.vocabularies}
    for feature in [*columns, *sequences]:
        readers[feature.vocabulary].append(feature.name)
    tables = [
        EmbeddingBagConfig(name=v.name, embedding_dim=DIM, num_embeddings=v.num_embeddings, feature_names=names)
        for v in data.schema.vocabularies
        if (names := readers[v.name])
    ]
    numbers = max(data.train.batch(slice(0, 1), 0).dense.shape[1], 1)
    model = DLRM(EmbeddingBagCollection(tables=tables, is_weighted=weighted), numbers, [DIM], [*UNITS, 1])

    def forward(batch: Batch) -> Tensor:
        bags = [batch.histories[feature.name] for feature in sequences]
        lengths = [torch.ones(batch.ids.numel(), dtype=torch.int64), *(bag.lengths() for bag in bags)]
        weights = [torch.ones(batch.ids.numel()), *(recency(bag) for bag in bags)]
        ids = KeyedJaggedTensor(
            keys=[feature.name for feature in [*columns, *sequences]],
            values=torch.cat([batch.ids.t().flatten(), *(bag.values for bag in bags)]),
            lengths=torch.cat(lengths),
            weights=torch.cat(weights) if weighted else None,
        )
        dense = batch.dense if batch.dense.shape[1] else torch.zeros(len(batch), 1)
        return model(dense, ids).squeeze(1)

    return plain_loop(model, forward, data, LENGTH if weighted else 0)


def recency(bag: Jagged) -> Tensor:
    """float [sum L]: 1 for the last id of a bag, 1 / sqrt(2) for the one before it, and so on."""
    from_end = bag.offsets[1:][bag.segment_ids()] - torch.arange(bag.values.numel())
    return from_end.to(torch.float32).rsqrt()


def deepctr_deepfm(data: PreparedDataset, folder: Path) -> Host:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(v.name, v.num_embeddings, embedding_dim=DIM) for v in data.schema.vocabularies]
    model = DeepFM(columns, columns, dnn_hidden_units=tuple(UNITS), l2_reg_linear=0, l2_reg_embedding=0)
    model.compile(torch.optim.Adam(model.parameters(), lr=RATE), "binary_crossentropy")

    def inputs(split: Any) -> dict[str, np.ndarray]:
        ids = split.batch(slice(0, len(split)), 0).ids.numpy()
        return {feature.name: ids[:, column] for column, feature in enumerate(data.schema.categorical)}

    def fit(epochs: int) -> None:
        model.fit(inputs(data.train), data.train.labels.astype("float32"), BATCH, epochs, verbose=0)

    def batches() -> list[Any]:
        ids = inputs(data.train)
        order = np.random.default_rng(0).permutation(len(data.train))
        rows = np.stack([ids[name] for name in model.feature_index], 1)[order]
        return list(torch.from_numpy(rows).float().split(BATCH))

    return Host(model, model.optim, fit, lambda: model.predict(inputs(data.test), BATCH).ravel(), batches)


def fuxictr(name: str, data: PreparedDataset, folder: Path) -> Host:
    """LongCTR's models: item features (target and history end to end), the other features, a mask of the history."""
    from fuxictr.features import FeatureMap

    schema = data.schema
    sequences = {f.target: f.name for f in schema.features if f.kind == "sequence"}
    items = list(sequences) or ["item"]
    features = FeatureMap("proof", str(folder))
    for feature in schema.categorical:
        size = schema.vocabularies[schema.vocabulary_index(feature.vocabulary)].num_embeddings
        spec = {"type": "categorical", "source": "item" if feature.name in items else "user", "vocab_size": size}
        features.features[feature.name] = spec | ({"padding_idx": 0} if feature.name in items else {})
    features.features = OrderedDict(features.features)
    features.labels, features.num_fields, features.default_emb_dim = ["label"], len(schema.categorical), DIM
    (folder / "proof").mkdir(exist_ok=True)
    module = importlib.import_module(f"model_zoo.LongCTR.{name}.{name}")
    units = {"DIN": "dnn_hidden_units", "DCNv2": "parallel_dnn_hidden_units"}[name]
    options = {units: UNITS, "embedding_dim": DIM, "learning_rate": RATE, "optimizer": "adam", "verbose": 0}
    options |= {"loss": "binary_crossentropy", "task": "binary_classification", "metrics": ["AUC"], "monitor": "AUC"}
    model = getattr(module, name)(features, model_root=str(folder), **options)

    def convert(batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        columns = {f.name: batch.ids[:, i] for i, f in enumerate(schema.categorical)}
        mask, item_ids = torch.zeros(len(batch), 1), {}
        for item in items:
            past = torch.zeros(len(batch), 1, dtype=torch.int64)
            if item in sequences:
                past, kept = batch.histories[sequences[item]].to_padded(LENGTH)
                mask = kept.float()
            item_ids[item] = torch.cat([past, columns[item].unsqueeze(1)], 1).flatten()
        others = {key: ids for key, ids in columns.items() if key not in items}
        return {**others, "label": batch.labels}, item_ids, mask

    def fit(epochs: int) -> None:
        valid = [convert(batch) for batch in in_order(data, "valid", LENGTH)]
        model.fit([convert(batch) for batch in shuffled(data, 0, LENGTH)], epochs=epochs, validation_data=valid)

    return Host(
        model,
        model.optimizer,
        fit,
        lambda: model.predict([convert(batch) for batch in in_order(data, "test", LENGTH)]),
        lambda: [convert(batch) for batch in shuffled(data, 0, LENGTH)],
    )


HOSTS: dict[str, tuple[str, Callable[[PreparedDataset, Path], Host]]] = {
    "torch": ("torch MLP", torch_mlp),
    "torchrec": ("torchrec DLRM", torchrec_dlrm),
    "torchrec-weighted": ("torchrec DLRM, weighted bags", lambda data, folder: torchrec_dlrm(data, folder, True)),
    "deepctr": ("DeepCTR-Torch DeepFM", deepctr_deepfm),
    "fuxictr": ("FuxiCTR DCNv2", lambda data, folder: fuxictr("DCNv2", data, folder)),
    "din": ("FuxiCTR DIN", lambda data, folder: fuxictr("DIN", data, folder)),
}


def run(host: str, data: PreparedDataset, method: str, budget: str, gradient: str, epochs: int, seed: int) -> str:
    """The cells of one row: tables, bytes, test AUC, seconds. Without a method the host keeps its own tables."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        made = HOSTS[host][1](data, Path(folder))
        torch.manual_seed(seed)
        size = rectab.plan_swap(made.model, budget="100%").bytes_before
        if method:
            result = rectab.swap_(
                made.model, method, budget, optimizer=made.optimizer, gradient=gradient, seed=seed, verbose=False
            )
            size = result.bytes_after
            if gradient == "row":
                result.step_with(made.optimizer, RowAdam(result.row_stores(), lr=RATE))
        start = time.process_time()
        made.fit(epochs)
        seconds = time.process_time() - start
        auc = roc_auc_score(data.test.labels, made.predict())
    tables = f"{method} {budget}, {gradient} gradients" if method else "its own"
    return f"{tables} | {size:,} | {auc:.4f} | {seconds:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hosts", nargs="+", choices=list(HOSTS), default=["torch", "torchrec", "deepctr", "fuxictr"])
    parser.add_argument("--methods", nargs="+", default=["unified"])
    parser.add_argument("--budgets", nargs="+", default=["25%", "10%"])
    parser.add_argument("--gradients", nargs="+", default=["dense"], choices=["dense", "row"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data = PreparedDataset.open(options.folder)
    cases = [("", "", "dense")]
    cases += [(m, b, g) for m in options.methods for b in options.budgets for g in options.gradients]
    print("| data | model | tables | bytes | test AUC | seconds |\n|---|---|---|---|---|---|")
    for host in options.hosts:
        for method, budget, gradient in cases:
            cells = run(host, data, method, budget, gradient, options.epochs, options.seed)
            print(f"| {options.name} | {HOSTS[host][0]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

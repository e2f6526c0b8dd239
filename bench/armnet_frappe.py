"""ARM-Net on Frappe at several widths, beside the curve that its authors publish with their code.

    python bench/armnet_frappe.py DATA OUT [--widths 10,40,100] [--l2 0,0.1]

Trains ``armnet`` with their settings for that curve (one head, 10 neurons, alpha 1.7, perceptron 300-300, Adam 1e-3,
batch 4096), and writes ``armnet_frappe.json``: AUC over the whole test split of the weights that validation selects,
and of the same weights the mean of the AUCs of batches of 4,096 rows, which is what their code reports (of the epoch
that is best on test).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from rectab.data import PreparedDataset
from rectab.metrics import auc
from rectab.models import CTRModel
from rectab.training import RunResult, TrainConfig, load_model, train_once
from rectab.training.evaluation import predict

BATCH = 4096
PUBLISHED = {10: (0.9777, 177e3), 40: (0.9803, 434e3), 100: (0.9817, 953e3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", default="10,40,100")
    parser.add_argument("--l2", default="0,0.1")
    asked = parser.parse_args()
    dataset = PreparedDataset.open(asked.data)
    records = []
    for l2 in map(float, asked.l2.split(",")):
        for width in map(int, asked.widths.split(",")):
            folder = asked.out / f"{width}_{l2:g}"
            result = train(dataset, width, l2, folder)
            records.append(record(result, load_model(folder / "model.safetensors"), dataset, width, l2))
            print(json.dumps(records[-1]), flush=True)
            (asked.out / "armnet_frappe.json").write_text(json.dumps(records, indent=1))


def train(dataset: PreparedDataset, width: int, l2: float, folder: Path) -> RunResult:
    """One run, seed 0; a finished one is read back."""
    return train_once(
        dataset,
        method="full",
        model="armnet",
        model_options={"heads": 1, "neurons": 10, "alpha": 1.7, "hidden": [300, 300]},
        embedding_dim=width,
        train_config=TrainConfig(batch_size=BATCH, lr=1e-3, embedding_l2=l2, max_epochs=60),
        out_dir=folder,
        progress="off",
    )


def record(result: RunResult, model: CTRModel, dataset: PreparedDataset, width: int, l2: float) -> dict[str, object]:
    """What is kept of a run."""
    scores, labels = predict(model, dataset.test), dataset.test.labels
    parts = [slice(start, start + BATCH) for start in range(0, len(labels), BATCH)]
    assert result.test is not None
    published, parameters = PUBLISHED.get(width, (None, None))
    return {
        "embedding_dim": width,
        "embedding_l2": l2,
        "parameters": sum(p.numel() for p in model.parameters()),
        "table_bytes": result.serving_bytes,
        "valid_auc": result.valid["auc"],
        "test_auc": result.test["auc"],
        "test_auc_mean_of_batches": float(np.mean([auc(labels[part], scores[part]) for part in parts])),
        "test_logloss": result.test["logloss"],
        "epochs": result.stages[0]["epochs"],
        "train_seconds": result.train_seconds,
        "published_auc": published,
        "published_parameters": parameters,
        "versions": result.versions,
    }


if __name__ == "__main__":
    main()

"""Does training still give the same numbers, to the bit? Records losses and predictions of small runs, or compares.

    OMP_NUM_THREADS=1 PYTHONPATH=<one version> python bench/same_training.py record numbers.npz
    OMP_NUM_THREADS=1 PYTHONPATH=<another> python bench/same_training.py compare numbers.npz

Floats differ between processors, so a recording is compared on the machine that made it. ``compare`` ends with 1 if a
number differs; names of cases after the file limit it to these.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from training_helpers import counted, tiny_dataset

import rectab
from rectab.batch import Batch
from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.tables import TableOptions, plan
from rectab.training import TrainConfig
from rectab.training.evaluation import predict
from rectab.training.trainer import Trainer

DIM, STEPS_AN_EPOCH = 8, 100


@dataclass(frozen=True)
class Case:
    """One run: a table and how it is trained."""

    method: str
    budget: str | None
    options: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    history: str = "none"


CASES = {
    "full": Case("full", None),
    "full-l2": Case("full", None, train={"embedding_l2": 0.01}, history="mean"),
    "full-clip": Case("full", None, train={"clip_norm": 0.05, "embedding_l2": 0.01}),
    "full-dense": Case("full", None, train={"gradient": "dense"}),
    "full-sparse": Case("full", None, train={"gradient": "sparse"}),
    "hashed": Case("hashed", "40%", {"whole_below": 10}),
    "hashed-lazy": Case("hashed", "40%", {"whole_below": 10}, {"embedding_l2": 0.01, "embedding_l2_mode": "lazy"}),
    "hashed-adagrad": Case("hashed", "40%", train={"optimizer": "adagrad", "lr": 0.05, "embedding_l2": 0.01}),
    "unified": Case("unified", "25%"),
    "unified-l2": Case("unified", "25%", train={"embedding_l2": 0.01}),
    "unified-sgd": Case("unified", "25%", train={"optimizer": "sgd", "lr": 0.2, "embedding_l2": 0.01}),
    "unified-minibatch": Case(
        "unified", "25%", train={"embedding_l2": 0.01, "embedding_l2_mode": "minibatch"}, history="mean"
    ),
    "dnis": Case("dnis", "40%", {"alpha_lr": 0.05}, {"embedding_l2": 0.001}),
    "dnis-second": Case("dnis", "40%", {"alpha_lr": 0.05, "second_order": True}),
    "optembed": Case(
        "optembed", "40%", {"generations": 2, "population": 4, "threshold_lr": 1.0, "alpha": 1e-2}, history="mean"
    ),
}


class RecordingTrainer(Trainer):
    """Keeps every loss of training, of all stages and searches."""

    losses: list[float]

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        self.losses.append(float(loss.detach()))
        return loss


def train(case: Case, dataset: PreparedDataset) -> tuple[np.ndarray, np.ndarray]:
    """(every loss, logits of the validation rows) of two epochs of 100 steps a stage."""
    settings = {"batch_size": 32, "lr": 0.01, "max_epochs": 2, "patience": 100, "precision": "fp32", **case.train}
    config = TrainConfig(evaluations_per_epoch=1, **settings)
    options = TableOptions(gradient=config.gradient)
    planned = plan(case.method, dataset.schema.vocabularies, DIM, case.budget, options=options, **case.options)
    model = ModelConfig.from_options("deepfm", case.history, {"hidden": (16,), "dropout": 0.1}, {})
    trainer = RecordingTrainer(dataset, planned.build(), model, config, progress="off")
    trainer.losses = []
    trainer.restart(trainer.fit().serving(), trainer.model.state_dict())
    return np.array(trainer.losses), predict(trainer.model, dataset.valid)


def difference(name: str, found: np.ndarray, expected: np.ndarray) -> str | None:
    """What differs, in words; None if nothing does."""
    if found.shape != expected.shape:
        return f"{name}: {found.shape} numbers instead of {expected.shape}"
    different = found != expected
    if not different.any():
        return None
    first, largest = int(np.flatnonzero(different)[0]), float(np.abs(found - expected).max())
    return f"{name}: {int(different.sum())} of {found.size} differ, first at {first}, by up to {largest:.3g}"


def main(what: str, path: Path, names: list[str]) -> int:
    torch.set_num_threads(1)
    dataset = counted(tiny_dataset(32 * STEPS_AN_EPOCH))
    print(f"rectab of {Path(inspect.getfile(rectab)).parent}")
    recorded = dict(np.load(path)) if what == "compare" else {}
    found: dict[str, np.ndarray] = {}
    wrong = 0
    for name in names or CASES:
        found[f"{name}/losses"], found[f"{name}/predictions"] = train(CASES[name], dataset)
        keys = [f"{name}/losses", f"{name}/predictions"]
        lines = [difference(key, found[key], recorded[key]) for key in keys] if what == "compare" else []
        wrong += any(lines)
        count = found[keys[0]].size
        print("\n".join(filter(None, lines)) or f"{name}: {count} losses{', the same' if lines else ''}", flush=True)
    if what == "record":
        np.savez_compressed(path, **found)  # type: ignore[arg-type]
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("record", "compare"):
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))

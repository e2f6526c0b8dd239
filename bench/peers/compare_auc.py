"""Time to the same validation AUC: rectab beside FuxiCTR, one architecture, batch size and learning rate.

    .venv-peers/bin/python bench/peers/compare_auc.py data/frappe --auc 0.96 0.97 0.98

Both see the same rows in the same order and are evaluated on the whole validation split every so many steps. Training
time is counted (for rectab with its loader, for FuxiCTR without one: its batches lie ready), evaluation is not. The
libraries take turns: each trains one stretch between two evaluations, then the other does. Rows start as FuxiCTR's do
(standard deviation 0.0001) and gradients are clipped as FuxiCTR clips them (norm 10): under batch norm the first
gradients of such small rows are huge, and without clipping Adam's squares remember them for a thousand steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuxi
import numpy as np
import torch
from ours import RectabModel
from rounds import write_json
from sklearn.metrics import roc_auc_score

from rectab.batch import Batch
from rectab.data import PreparedDataset
from rectab.data.loader import batches
from rectab.models import ModelConfig

HIDDEN = (400, 400, 400)
INIT_STD = 1e-4  # FuxiCTR's own


class Racer:
    """A model, its endless batches and the time it has trained for."""

    def __init__(self, name: str, step: Callable[[Any], float], predict: Callable[[], torch.Tensor],
                 source: Iterator[Any]) -> None:  # fmt: skip
        self.name, self.step, self.predict, self.source = name, step, predict, source
        self.seconds, self.steps, self.levels = 0.0, 0, 0

    def train(self, steps: int) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            self.step(next(self.source))
        self.seconds += time.perf_counter() - start
        self.steps += steps


def endless(data: PreparedDataset, batch_size: int, prefetch: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches(data.train, batch_size, shuffle_seed=0, epoch=epoch, max_history=0, prefetch=prefetch)
        epoch += 1


def converted(data: PreparedDataset, batch_size: int, epochs: int) -> Iterator[Any]:
    """FuxiCTR's batches of so many epochs, made before the first is asked for."""
    count = -(-len(data.train) // batch_size) * epochs
    source = endless(data, batch_size, prefetch=0)
    return iter([fuxi.flat_inputs(data.schema, next(source)) for _ in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--auc", type=float, nargs="+", default=[0.96, 0.97, 0.98], help="validation AUCs to reach")
    parser.add_argument("--model", default="dcnv2", choices=["dcnv2", "deepfm"])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--every", type=int, default=20, help="steps between evaluations")
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data, batch_size = PreparedDataset.open(arguments.data), arguments.batch
    schema, labels = data.schema, data.valid.labels
    model_options = {"hidden": HIDDEN, "batch_norm": True, "dropout": arguments.dropout}
    config = ModelConfig.from_options(arguments.model, "none", model_options)
    valid = list(batches(data.valid, 8192, shuffle_seed=None, max_history=0))
    racers = []
    for precision in ("fp32", "bf16"):
        start = {"init_std": INIT_STD, "clip_norm": fuxi.MAX_GRADIENT_NORM}
        ours = RectabModel(schema, config, arguments.dim, precision, arguments.lr, **start)
        source = endless(data, batch_size, prefetch=2)
        racers.append(Racer(f"rectab {precision}, row", ours.step, lambda m=ours: m.predict(valid), source))
    with tempfile.TemporaryDirectory() as folder:
        options = {**model_options, "hidden": list(HIDDEN)}
        model = fuxi.FuxiCTRModel(arguments.model, schema, arguments.dim, arguments.lr, Path(folder), **options)
        inputs = [fuxi.flat_inputs(schema, batch) for batch in valid]
        source = converted(data, batch_size, arguments.max_epochs)
        racers.append(Racer("FuxiCTR fp32, dense", model.step, lambda: model.predict(inputs), source))
        rows = race(racers, labels, arguments)
    write_json(arguments.json, rows, model=arguments.model, threads=torch.get_num_threads())


def race(racers: list[Racer], labels: np.ndarray, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"{arguments.model} on {arguments.data.name}, {torch.get_num_threads()} threads", flush=True)
    levels, rows = sorted(arguments.auc), []
    running = list(racers)
    while running:
        for racer in list(running):
            try:
                racer.train(arguments.every)
            except StopIteration:
                print(f"{racer.name}: AUC {levels[racer.levels]} not reached in {arguments.max_epochs} epochs")
                running.remove(racer)
                continue
            auc = float(roc_auc_score(labels, racer.predict().numpy()))
            while racer.levels < len(levels) and auc >= levels[racer.levels]:
                level = levels[racer.levels]
                rows.append({"name": racer.name, "auc": level, "seconds": racer.seconds, "steps": racer.steps})
                print(f"AUC {level}: {racer.name:22s} {racer.seconds:7.2f} s, {racer.steps} steps", flush=True)
                racer.levels += 1
            if racer.levels == len(levels):
                running.remove(racer)
    return rows


if __name__ == "__main__":
    main()

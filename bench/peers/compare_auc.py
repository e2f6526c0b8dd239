"""Time to the same validation AUC: rectab beside FuxiCTR, one architecture, batch size and learning rate.

    .venv-peers/bin/python bench/peers/compare_auc.py data/frappe --auc 0.96 0.97 0.98 --seeds 3

All see the same rows in the same order and are evaluated on the whole validation split every so many steps. Training
time is counted (for rectab with its loader, for FuxiCTR without one: its batches lie ready), evaluation is not. The
racers take turns, in an order that changes: each trains one stretch between two evaluations, then the next does. Who
does not reach an AUC within ``--max-epochs`` has no time for it. A seed is of initial weights and of the order of rows;
ratios are of the seconds of one seed.

Rows start as FuxiCTR's do (standard deviation 0.0001) and gradients are clipped as FuxiCTR clips them (norm 10): under
batch norm the first gradients of such small rows are huge, and without clipping Adam's squares remember them for a
thousand steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fuxi
import torch
from ours import PRECISIONS, RectabModel
from racing import Racer, race
from rounds import ratio_text, write_json

from rectab.batch import Batch
from rectab.data import PreparedDataset
from rectab.data.loader import batches
from rectab.models import ModelConfig
from rectab.tables import TableOptions

HIDDEN = (400, 400, 400)
INIT_STD = 1e-4  # FuxiCTR's own
REFERENCE = "rectab bf16"


def epochs_of(
    data: PreparedDataset, arguments: argparse.Namespace, seed: int, prefetch: int
) -> Generator[Batch, None, None]:
    """The batches of ``--max-epochs`` epochs."""
    for epoch in range(arguments.max_epochs):
        order = {"shuffle_seed": seed, "epoch": epoch}
        yield from batches(data.train, arguments.batch, **order, max_history=0, prefetch=prefetch)


def racers_of(
    model: str, data: PreparedDataset, valid: list[Batch], seed: int, folder: Path, arguments: argparse.Namespace
) -> list[Racer]:
    schema, options = data.schema, {"hidden": HIDDEN, "batch_norm": True, "dropout": arguments.dropout}
    config, racers = ModelConfig.from_options(model, "none", options), []
    for precision in PRECISIONS:
        start = {"options": TableOptions(init_std=INIT_STD, seed=seed), "clip_norm": fuxi.MAX_GRADIENT_NORM}
        ours = RectabModel(schema, config, arguments.dim, precision, arguments.lr, **start)
        source = epochs_of(data, arguments, seed, prefetch=2)
        racers.append(Racer("rectab", precision, "row", ours.step, lambda m=ours: m.predict(valid), source))
    options["hidden"] = list(HIDDEN)
    peer = fuxi.FuxiCTRModel(model, schema, arguments.dim, arguments.lr, folder, seed, **options)
    inputs = [fuxi.flat_inputs(schema, batch) for batch in valid]
    source = (fuxi.flat_inputs(schema, batch) for batch in epochs_of(data, arguments, seed, prefetch=0))
    racers.append(Racer("FuxiCTR", "fp32", "dense", peer.step, lambda: peer.predict(inputs), source, lie_ready=True))
    return racers


def warm_up(model: str, data: PreparedDataset, valid: list[Batch], arguments: argparse.Namespace) -> None:
    """A few steps of models that are thrown away: the first of a process load and compile kernels."""
    with tempfile.TemporaryDirectory() as folder:
        for racer in racers_of(model, data, valid, 0, Path(folder), arguments):
            racer.train(3)
            racer.source.close()


def summarize(model: str, races: list[list[Racer]], levels: list[float]) -> list[dict[str, Any]]:
    """A row for every AUC and racer: seconds, steps and ratio of every seed; None where it was not reached."""
    rows = []
    for level in levels:
        for runs in zip(*races, strict=True):
            found = [racer.reached.get(level, (None, None)) for racer in runs]
            references = [next(r for r in racers if r.name == REFERENCE).reached.get(level) for racers in races]
            ratios = [s / r[0] for (s, _), r in zip(found, references, strict=True) if s is not None and r is not None]
            spread = {REFERENCE: [min(ratios), statistics.median(ratios), max(ratios)]} if ratios else {}
            described = {"name": runs[0].peer, "precision": runs[0].precision, "gradient": runs[0].gradient}
            seconds, steps = ([each[part] for each in found] for part in (0, 1))
            measured = {"threads": torch.get_num_threads(), "seconds": seconds, "steps": steps, "ratios": spread}
            rows.append({"model": model, "auc": level, **described, **measured})
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        spread = row["ratios"].get(REFERENCE)
        ratio = f"x {ratio_text(spread)} of {REFERENCE} (least and most)" if spread else "no seed to compare"
        steps, seconds = ([value for value in row[key] if value is not None] for key in ("steps", "seconds"))
        medians = (
            f"{statistics.median(seconds):7.2f} s {statistics.median(steps):5.0f} steps" if steps else "not reached"
        )
        what = f"{row['model']} {row['auc']} {row['name']:8s} {row['precision']} {row['gradient']:6s}"
        print(f"{what} {medians} in {len(steps)} of {len(row['steps'])} seeds  {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--auc", type=float, nargs="+", default=[0.96, 0.97, 0.98], help="validation AUCs to reach")
    parser.add_argument("--model", nargs="+", default=["deepfm", "dcnv2"], choices=["deepfm", "dcnv2"])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--every", type=int, default=20, help="steps between evaluations")
    parser.add_argument("--max-epochs", type=int, default=20, help="of every racer")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data, levels = PreparedDataset.open(arguments.data), sorted(arguments.auc)
    valid = list(batches(data.valid, 8192, shuffle_seed=None, max_history=0))
    done: list[dict[str, Any]] = []
    for model in arguments.model:
        warm_up(model, data, valid, arguments)
        races: list[list[Racer]] = []
        for seed in range(arguments.seeds):
            print(f"{model} on {arguments.data.name}, seed {seed}, {torch.get_num_threads()} threads", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                races.append(racers_of(model, data, valid, seed, Path(folder), arguments))
                race(races[-1], data.valid.labels, levels, arguments.every, seed)
            rows = summarize(model, races, levels)
            write_json(arguments.json, done + rows, data=data.name)
        print_rows(rows)
        done += rows


if __name__ == "__main__":
    main()

"""Whole training steps of DCNv2 and DeepFM: rectab beside FuxiCTR and DeepCTR-Torch, interleaved.

    .venv-peers/bin/python bench/peers/compare_models.py --rows 1420000 14000000 --rounds 10

26 fields, D = 16, batch 4096, perceptron 400-400-400 without batch norm and dropout, three full cross layers, Adam. The
peers update every row of every table at every step, rectab the rows of the batch. rectab clips gradients at the norm
that FuxiCTR's training clips at; DeepCTR-Torch does not clip, as its training never does. Ratios are to rectab in fp32
and in bf16 (autocast of the dense part; the peers have fp32 only).
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import deepctr
import fuxi
from ours import rectab_candidates
from rounds import Candidate, add_arguments, header, interleaved, report, write_json

sys.path[:0] = [str(Path(__file__).parents[1])]

from workloads import Workload, model_batches, schema_of  # noqa: E402

from rectab.batch import Batch  # noqa: E402
from rectab.models import ModelConfig  # noqa: E402

HIDDEN, DIM, RATE = (400, 400, 400), 16, 1e-3


def candidates_of(
    name: str, workload: Workload, batches: list[Batch], folder: Path, peers: list[str]
) -> list[Candidate]:
    schema = schema_of(workload)
    config = ModelConfig.from_options(name, "none", {"hidden": HIDDEN, "batch_norm": False})
    made = rectab_candidates(schema, config, DIM, RATE, batches)
    if "fuxictr" in peers:
        options = {"hidden": list(HIDDEN), "dropout": 0.0, "batch_norm": False}
        model = fuxi.FuxiCTRModel(name, schema, DIM, RATE, folder, **options)
        made.append(Candidate("FuxiCTR", "dense", model.step, [fuxi.flat_inputs(schema, b) for b in batches]))
    if "deepctr" in peers:
        other = deepctr.DeepCTRModel(name, schema, DIM, RATE, dnn_hidden_units=HIDDEN)
        made.append(Candidate("DeepCTR-Torch", "dense", other.step, [deepctr.flat_inputs(schema, b) for b in batches]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["dcnv2", "deepfm"], choices=["dcnv2", "deepfm"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_420_000, 14_000_000])
    parser.add_argument("--peers", nargs="+", default=["fuxictr", "deepctr"], choices=["fuxictr", "deepctr"])
    add_arguments(parser, rounds=10)
    arguments = parser.parse_args()
    clock, results = header(arguments), []
    for num_rows in arguments.rows:
        workload = Workload(num_rows, DIM)
        batches = model_batches(workload, 8)
        for name in arguments.models:
            with tempfile.TemporaryDirectory() as folder:
                candidates = candidates_of(name, workload, batches, Path(folder), arguments.peers)
                seconds = interleaved(candidates, arguments.rounds, clock)
            what = f"{name} {num_rows:,} rows"
            results += report(what, candidates, seconds, (0, 1), model=name, rows=num_rows, dim=DIM)
            del candidates
            gc.collect()
            write_json(arguments.json, results)


if __name__ == "__main__":
    main()

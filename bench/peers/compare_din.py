"""Training steps of DIN on real histories: rectab beside FuxiCTR and DeepCTR-Torch at the same longest history.

    rectab prepare datasets/movielens_1m.toml --raw DIR --out data/ml1m
    .venv-peers/bin/python bench/peers/compare_din.py data/ml1m --length 200

D = 16, attention 80-40 with Dice, perceptron 200-80, raw weights, Adam. The peers pad every history to the longest one;
rectab's cost follows the real lengths. rectab clips gradients at the norm that FuxiCTR's training clips at;
DeepCTR-Torch does not clip, as its training never does. Batches are real rows in random order, converted to each
library's format before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import deepctr
import fuxi
import numpy as np
from ours import rectab_candidates
from rounds import Candidate, add_arguments, header, interleaved, report, write_json

from rectab.data import PreparedDataset
from rectab.models import ModelConfig

DIM, RATE, ATTENTION, HIDDEN = 16, 1e-3, (80, 40), (200, 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared data set with histories")
    parser.add_argument("--length", type=int, default=200, help="longest history")
    parser.add_argument("--batch", type=int, default=1024)
    add_arguments(parser, rounds=10)
    arguments = parser.parse_args()
    clock, length = header(arguments), arguments.length
    data = PreparedDataset.open(arguments.data)
    schema, order = data.schema, np.random.default_rng(0).permutation(len(data.train))
    parts = [order[at : at + arguments.batch] for at in range(0, 4 * arguments.batch, arguments.batch)]
    batches = [data.train.batch(part, length) for part in parts]
    history = next(iter(batches[0].histories.values()))
    mean = float(history.lengths().float().mean())
    print(f"histories of at most {length}, mean length {mean:.0f}")
    din = {"hidden": ATTENTION, "activation": "dice", "max_history": length}
    config = ModelConfig.from_options("mlp", "din", {"hidden": HIDDEN, "batch_norm": False}, din)
    candidates = rectab_candidates(schema, config, DIM, RATE, batches)
    with tempfile.TemporaryDirectory() as folder:
        options = {"dnn_hidden_units": list(HIDDEN), "attention_hidden_units": list(ATTENTION)}
        model = fuxi.FuxiCTRModel("din", schema, DIM, RATE, Path(folder), **options)
        inputs = [fuxi.history_inputs(schema, batch, length) for batch in batches]
        candidates.append(Candidate("FuxiCTR", "dense", model.step, inputs))
        options = {"dnn_hidden_units": HIDDEN, "att_hidden_size": ATTENTION}
        other = deepctr.DeepCTRModel("din", schema, DIM, RATE, length, **options)
        other_inputs = [deepctr.history_inputs(schema, batch, length) for batch in batches]
        candidates.append(Candidate("DeepCTR-Torch", "dense", other.step, other_inputs))
        seconds = interleaved(candidates, arguments.rounds, clock)
    what = f"din {data.name} L {length}"
    rows = report(what, candidates, seconds, (0, 1), length=length, mean_length=mean, batch=arguments.batch)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()

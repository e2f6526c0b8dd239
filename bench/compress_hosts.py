"""Trained models of every host, compressed by one call: what it costs.

    .venv-peers/bin/python bench/compress_hosts.py frappe FOLDER [--hosts torch torchrec deepctr fuxictr]
    .venv-peers/bin/python bench/compress_hosts.py kuairand FOLDER --hosts din torchrec-weighted

FOLDER is a data set that ``rectab prepare`` wrote. The models are those of ``swap_proof.py``, trained in the host's own
loop; then compressed to each budget and undone, measured on 20,000 training rows, with training counts of ids. Prints a
Markdown table: test AUC before and after, the loss predicted, CPU seconds of the call on one thread.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from compress_record import COLUMNS, compressed_rows, write
from swap_proof import HOSTS
from torch import nn

from rectab.data import PreparedDataset
from rectab.schema import Schema
from rectab.swap.find import find_tables


def counts_of(model: nn.Module, schema: Schema) -> dict[str, np.ndarray]:
    """Training counts of every table, which is named after a vocabulary, a feature that draws from it, or its place."""
    by_name = {vocabulary.name: vocabulary for vocabulary in schema.vocabularies}
    by_name |= {feature.name: by_name[feature.vocabulary] for feature in schema.features}
    by_name |= {str(place): vocabulary for place, vocabulary in enumerate(schema.vocabularies)}
    vocabularies = {table.name: by_name[table.name.rpartition(".")[2]] for table in find_tables(model)[0]}
    return {name: v.counts for name, v in vocabularies.items() if v.counts is not None and v.counts.any()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hosts", nargs="+", choices=list(HOSTS), default=["torch", "torchrec", "deepctr", "fuxictr"])
    parser.add_argument("--budgets", nargs="+", default=["25%", "10%", "2%"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data, rows = PreparedDataset.open(options.folder), []
    print(COLUMNS)
    for name in options.hosts:
        label, build = HOSTS[name]
        torch.manual_seed(options.seed)
        with tempfile.TemporaryDirectory() as folder:
            host = build(data, Path(folder))
            host.fit(options.epochs)
            told = {"counts": counts_of(host.model, data.schema), "batches": host.batches(), "forward": host.forward}
            known = {"training rows": told}
            labels = np.asarray(data.test.labels)
            rows += compressed_rows((options.name, label), host.model, host.predict, labels, known, options.budgets)
            write(rows, options.json)


if __name__ == "__main__":
    main()

"""The forms in which a table of 1.42 million ids is served, by name, for benches to time beside each other."""

from __future__ import annotations

import numpy as np
import torch
from workloads import Workload, packed_table, schema_of

from rectab.tables import get_method, plan
from rectab.tables.base import EmbeddingTable, TableOptions

__all__ = ["FORMS", "served"]

FORMS = (
    *("full", "full:int8", "full:int4", "quantized:10%", "quantized:1%"),
    *("unified", "hashed", "optembed", "dnis"),
)
"""A method, at 10 % of the full table's bytes; ``full`` and a row format; ``quantized`` and a share; ``dnis`` and the
form that it is to end in."""


def served(name: str, workload: Workload) -> EmbeddingTable:
    """The table as it is served, on evaluation."""
    method, _, rest = name.partition(":")
    if method == "quantized" and rest:
        return packed_table(workload, float(rest.removesuffix("%")) / 100).eval()
    told = {"form": rest} if method == "dnis" and rest else {}
    held = TableOptions(rows=rest) if rest and not told else None
    budget, vocabularies = None if get_method(method).fills == "one" else "10%", schema_of(workload, True).vocabularies
    table = plan(method, vocabularies, workload.row_dim, budget, options=held, **told).build()
    if get_method(method).size_after_training:
        _grow_by_traffic(table)
    return table.serving().eval()


def _grow_by_traffic(table: EmbeddingTable) -> None:
    """As after training: a pruned table that was not trained would keep rows at random, not those looked up most."""
    counts = np.concatenate([vocabulary.counts for vocabulary in table.vocabularies])
    size = torch.from_numpy(counts).float().pow(0.25).unsqueeze(1)
    for _, store in table.row_stores():
        store.weight.data.mul_(size)

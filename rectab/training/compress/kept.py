"""Yesterday's blocks and codebooks for today's vectors: only codes and steps are chosen anew, so a delta is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.options import OptionTable
from rectab.tables.io import load_table
from rectab.tables.quantized import QuantizedTable
from rectab.training.artifact import TABLE_FILE
from rectab.training.compress.source import FullRun

__all__ = ["kept_allocation", "open_kept"]


def open_kept(folder: Path, run: FullRun) -> QuantizedTable:
    """The table of an encoded run, for the blocks and codebooks of another run.

    Raises:
        FileNotFoundError: the folder holds no encoded run.
        ValueError: its table is of other vocabularies or of another width.
    """
    if not (folder / TABLE_FILE).is_file():
        raise FileNotFoundError(f"--keep {folder}: holds no encoded run (no {TABLE_FILE}); give a BUDGET of compress")
    table = load_table(folder / TABLE_FILE)
    if not isinstance(table, QuantizedTable):
        raise ValueError(f"--keep {folder}: its table is {table.method!r}, which has no blocks")
    if table.embedding_dim != run.embedding_dim:
        raise ValueError(f"--keep {folder}: is of width {table.embedding_dim}, {run.folder} of {run.embedding_dim}")
    were = {v.name: v.num_embeddings for v in table.vocabularies}
    are = {v.name: v.num_embeddings for v in run.dataset.schema.vocabularies}
    for name in [*were, *(name for name in are if name not in were)]:
        if were.get(name) != are.get(name):
            raise ValueError(
                f"--keep {folder}: {name} has {were.get(name, 0):,} ids there, {are.get(name, 0):,} in {run.folder}. "
                "Blocks are ranges of ids, which every prepare numbers anew; train on data prepared with the same "
                "vocabularies, or compress without --keep"
            )
    return table


def kept_allocation(table: QuantizedTable, options: OptionTable) -> Allocation:
    """The blocks of a table, with the errors that they and its codebooks have now."""
    begins = np.cumsum([0, *(v.num_embeddings for v in table.vocabularies)])
    blocks, encodings, errors = [], [], []
    for part, payload in zip(table.parts, table.payloads(), strict=True):
        first = part.first - int(begins[part.vocabulary])
        block = Block(part.vocabulary, first, first + part.num_ids)
        blocks.append(block)
        encodings.append(part.encoding)
        errors.append(options.error(block, part.encoding, options.fit(block, part.encoding, payload)))
    size = sum(options.bytes(block, encoding) for block, encoding in zip(blocks, encodings, strict=True))
    return Allocation(tuple(blocks), tuple(encodings), np.array(errors), size)

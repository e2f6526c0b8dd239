"""A table whose vocabularies changed: ids that stay keep their rows, and what an optimizer has gathered for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address, rows_of
from rectab.tables.base import EmbeddingTable
from rectab.tables.registry import build_table

__all__ = ["Kept", "carry_state", "remap"]


@dataclass(frozen=True)
class Kept:
    """Rows that ids kept.

    Attributes:
        store: name of the row store.
        old, new: int64 [n], the row that an id had, and the one it has.
    """

    store: str
    old: Tensor
    new: Tensor


@torch.no_grad()
def remap(
    table: EmbeddingTable, old: Sequence[np.ndarray], new: Sequence[np.ndarray]
) -> tuple[EmbeddingTable, list[Kept]]:
    """A table of the same method for other vocabularies, in which ids that were there before keep their vectors.

    Args:
        table: every id has rows of its own in it: ``full`` or ``narrow``.
        old: by vocabulary, the raw value of every id, [num_embeddings]; of id 0 as well, whatever stands for it.
        new: likewise, of the table to make. The order of values may be any other; new ones start at initial values.

    Returns:
        The new table, and which rows went where, for :func:`carry_state`.

    Raises:
        ValueError: ids of the table share rows, or the values are not distinct, or not one an id.
    """
    if not table.addresses() or any(address.by != "id" for address in table.addresses()):
        raise ValueError(f"{table.method}: only a table in which every id has rows of its own can be remapped")
    for vocabulary, values in zip(table.vocabularies, old, strict=True):
        if len(values) != vocabulary.num_embeddings:
            raise ValueError(f"vocabulary {vocabulary.name!r} has {vocabulary.num_embeddings} ids, not {len(values)}")
    vocabularies = [
        Vocabulary(v.name, len(values), counts=None) for v, values in zip(table.vocabularies, new, strict=True)
    ]
    options = replace(table.options, device=table.device)
    made = build_table(table.method, vocabularies, table.embedding_dim, table.config, options)
    kept = []
    for here, there in zip(table.addresses(), made.addresses(), strict=True):
        before, after = _places(old[here.vocabulary], new[here.vocabulary], vocabularies[here.vocabulary].name)
        rows = (_rows(here, before, table), _rows(there, after, made))
        source, target = table.get_submodule(here.store), made.get_submodule(there.store)
        target.write(rows[1], source.read(rows[0]))  # type: ignore[operator]
        kept.append(Kept(here.store, *rows))
    made.load_state_dict(
        {name: tensor for name, tensor in table.state_dict().items() if name.partition(".")[0] not in _held(table)},
        strict=False,
    )
    return made.train(table.training), kept


def carry_state(old: RowOptimizer, new: RowOptimizer, kept: Sequence[Kept]) -> None:
    """Let rows of ``new``, an optimizer of the table that :func:`remap` made, have the state of those they were."""
    new.clock.load_lr_sums(np.array(old.clock.lr_sums))
    for rows in kept:
        old.rows[rows.store].move(rows.old, rows.new, new.rows[rows.store])


def _places(old: np.ndarray, new: np.ndarray, name: str) -> tuple[Tensor, Tensor]:
    """(ids in the old vocabulary, ids in the new one) of the values that are in both."""
    for values in (old, new):
        if len(np.unique(values)) != len(values):
            raise ValueError(f"vocabulary {name!r}: values must be distinct")
    _, before, after = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    return torch.from_numpy(before), torch.from_numpy(after)


def _rows(address: Address, ids: Tensor, table: EmbeddingTable) -> Tensor:
    size = table.vocabularies[address.vocabulary].num_embeddings
    return rows_of(address, ids.to(table.device), size)


def _held(table: EmbeddingTable) -> set[str]:
    """Names of what belongs to the vocabularies: row stores, and the buffers that say where they begin."""
    return {name.partition(".")[0] for name, _ in table.row_stores()} | {name for name, _ in table.named_buffers()}

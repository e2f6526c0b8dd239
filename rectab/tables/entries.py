"""Single entries of a full table: what is left when magnitude prunes it, by whatever method.

Magnitude pruning orders the entries of a table by their size and keeps the largest. Here bytes decide how many, indexes
included, and a tie goes to the earlier entry.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.compact import CompactTable, gather_present
from rectab.tables.idset import IdSet
from rectab.tables.registry import bytes_of

__all__ = ["EntriesConfig", "EntriesTable", "entries_bytes", "entries_within", "kept_shares", "largest_entries"]


@dataclass(frozen=True)
class EntriesConfig:
    """Attributes:
    num_entries: kept entries of the table.
    """

    num_entries: int


ConfigT = TypeVar("ConfigT", bound=EntriesConfig)


class EntriesTable(CompactTable[ConfigT]):
    """Single entries of the full table; all others are zero.

    Entries are numbered row by row, and their numbers are an :class:`IdSet`: a compressed sparse row layout whose
    column indexes and row pointers take 1.125 bits an entry of the full table, or 8 or 16 bits a kept entry and next to
    nothing else, whichever is less (an ordinary one takes 32 bits a kept entry and 32 a row).

    Memory: num_entries * (bytes of a row of one element), and that set.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        device = self.options.device
        self.entries = IdSet(self.num_ids * embedding_dim, config.num_entries, span=embedding_dim, device=device)
        self.store = self.options.row_store(config.num_entries, 1, init_std=0.0, steps="filled")

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        dim = self.embedding_dim
        first = self.number_ids(ids, vocabulary) * dim
        if torch.compiler.is_compiling():
            return self._lookup_in_fixed_shapes(first)
        if self.store.reads_plainly:
            found = self.entries.gather(first.reshape(-1), dim, self.store.weight.view(-1))
            if found is not None:
                return found.view(*ids.shape, dim)
        place, rank = self.entries.list_between(first.reshape(-1), dim)
        vectors = self.store.new_zeros(ids.numel() * dim)
        return vectors.index_copy(0, place, self.store(rank).squeeze(-1)).view(*ids.shape, dim)

    def _lookup_in_fixed_shapes(self, first: Tensor) -> Tensor:
        """As :meth:`lookup`, given every id's first entry, in shapes that do not depend on the ids: for exports."""
        dim = self.embedding_dim
        rank, column, present = self.entries.between(first, dim)
        values = gather_present(self.store, rank, present).squeeze(-1)
        # Empty slots go to a column of their own, which is cut off.
        vectors = torch.zeros(*first.shape, dim + 1, dtype=values.dtype, device=values.device)
        return vectors.scatter(-1, column.where(present, dim), values)[..., :dim]

    @torch.no_grad()
    def fill(self, entries: Tensor, rows: Tensor) -> None:
        """Take entries, int64 [num_entries] ascending, of a full table [N, D]."""
        self.entries.fill(entries)
        self.store.write(slice(0, entries.numel()), rows.reshape(-1)[entries].unsqueeze(1))
        self.store.fit_steps()


def entries_bytes(
    form: str, vocabularies: Sequence[Vocabulary], embedding_dim: int, count: int, options: TableOptions
) -> int:
    """Bytes of the named form, an :class:`EntriesTable`, of so many entries."""
    return bytes_of(form, vocabularies, embedding_dim, EntriesConfig(count), options)


def entries_within(
    budget: int | None, form: str, vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions
) -> int:
    """Entries that the form holds within the budget, 0 if not even one; all without a budget."""
    total = embedding_dim * sum(v.num_embeddings for v in vocabularies)

    def size(count: int) -> int:
        return entries_bytes(form, vocabularies, embedding_dim, count, options)

    if budget is None or size(total) <= budget:
        return total
    return bisect.bisect_right(range(1, total), budget, key=size)


def largest_entries(rows: Tensor, count: int) -> Tensor:
    """int64 [at most count], ascending: the entries of largest size of [N, D]; the earlier of a tie, and no zeros.

    All entries, zeros too, if ``count`` is all of them: nothing is smaller than a table without holes.
    """
    if count == rows.numel():
        return torch.arange(count, device=rows.device)
    size = rows.reshape(-1).float().abs()
    # A sort would need 12 bytes an entry; the count-th largest needs one copy.
    cut = size.kthvalue(size.numel() - count + 1).values
    above = size > cut
    tied = ((size == cut) & (size > 0)).nonzero().squeeze(1)[: count - int(above.sum())]
    above[tied] = True
    return above.nonzero().squeeze(1)


def kept_shares(entries: Tensor, shape: torch.Size) -> Tensor:
    """float64 [N]: which share of every row's D entries is among ``entries`` int64 [k] of an [N, D] table."""
    num_rows, embedding_dim = shape
    return torch.bincount(entries // embedding_dim, minlength=num_rows).double() / embedding_dim
